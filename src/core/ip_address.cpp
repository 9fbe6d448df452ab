#include "core/ip_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

namespace token_refresh {

std::string NormalizedIpAddress(std::string_view address) {
  const std::string text(address);
  in6_addr v6{};
  // It would not look beyond a NUL.
  if (text.find('\0') != std::string::npos || inet_pton(AF_INET6, text.c_str(), &v6) != 1) return text;
  char normalized[INET6_ADDRSTRLEN];
  const bool mapped = IN6_IS_ADDR_V4MAPPED(&v6);
  const char* written = mapped ? inet_ntop(AF_INET, &v6.s6_addr[12], normalized, sizeof(normalized))
                               : inet_ntop(AF_INET6, &v6, normalized, sizeof(normalized));
  return written != nullptr ? written : text;
}

}  // namespace token_refresh
