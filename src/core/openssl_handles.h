// Owners for OpenSSL objects, and one way to report that OpenSSL failed. Private
// to those files of src/core that call OpenSSL.
#pragma once

#include <openssl/err.h>
#include <openssl/evp.h>

#include <memory>
#include <string>

#include "core/result.h"

namespace token_refresh {

struct OpensslDeleter {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

using CipherContext = std::unique_ptr<EVP_CIPHER_CTX, OpensslDeleter>;
using DigestContext = std::unique_ptr<EVP_MD_CTX, OpensslDeleter>;

// Says which operation failed and OpenSSL's own reason, which is one of its
// fixed texts, and empties its error queue: a later, unrelated caller (curl, the
// server's TLS) must not find our failure there.
inline Error OpensslError(const char* operation) {
  const char* reason = ERR_reason_error_string(ERR_peek_last_error());
  std::string message = std::string("OpenSSL cannot ") + operation;
  if (reason != nullptr) message.append(": ").append(reason);
  ERR_clear_error();
  return Error{ErrorCode::kInternal, std::move(message), {}};
}

inline const unsigned char* OpensslBytes(const char* bytes) { return reinterpret_cast<const unsigned char*>(bytes); }
inline unsigned char* OpensslBytes(char* bytes) { return reinterpret_cast<unsigned char*>(bytes); }

}  // namespace token_refresh
