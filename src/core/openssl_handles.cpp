#include "core/openssl_handles.h"

#include <string>
#include <utility>

namespace token_refresh {

Error OpensslError(const char* operation) {
  const char* reason = ERR_reason_error_string(ERR_peek_last_error());
  std::string message = std::string("OpenSSL cannot ") + operation;
  if (reason != nullptr) message.append(": ").append(reason);
  ERR_clear_error();
  return Error{ErrorCode::kInternal, std::move(message), {}};
}

bool OpensslRanOutOfMemory() {
  bool found = false;
  while (const unsigned long error = ERR_get_error()) found |= ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE;
  return found;
}

}  // namespace token_refresh
