#include "core/hmac_key.h"

#include <openssl/core_names.h>

#include <utility>

namespace token_refresh {

Result<HmacKey> HmacKey::FromSecret(std::string_view secret) {
  Mac mac(EVP_MAC_fetch(nullptr, OSSL_MAC_NAME_HMAC, nullptr));
  if (mac == nullptr) return OpensslError("find HMAC");
  MacContext context(EVP_MAC_CTX_new(mac.get()));
  char digest[] = "SHA256";
  const OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                               OSSL_PARAM_construct_end()};
  if (context == nullptr || EVP_MAC_init(context.get(), OpensslBytes(secret.data()), secret.size(), params) != 1) {
    return OpensslError("set up HMAC-SHA-256");
  }
  return HmacKey(std::move(context));
}

Result<Sha256Digest> HmacKey::Compute(std::string_view data) const {
  Sha256Digest digest;
  size_t written = 0;
  // Without a key, init goes back to the state behind the one that was set.
  if (EVP_MAC_init(context_.get(), nullptr, 0, nullptr) != 1 ||
      EVP_MAC_update(context_.get(), OpensslBytes(data.data()), data.size()) != 1 ||
      EVP_MAC_final(context_.get(), digest.data(), &written, digest.size()) != 1 || written != digest.size()) {
    return OpensslError("compute HMAC-SHA-256");
  }
  return digest;
}

}  // namespace token_refresh
