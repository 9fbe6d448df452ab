#include "core/credential_client.h"

namespace token_refresh {
namespace {

bool SharesKey(const ProviderOptions& options) {
  return options.auth_method == ClientAuthMethod::kPrivateKeyJwt ||
         options.auth_method == ClientAuthMethod::kTlsClientAuth ||
         options.auth_method == ClientAuthMethod::kSelfSignedTlsClientAuth ||
         options.request.grant_type == kJwtBearerGrant;
}

}  // namespace

std::shared_ptr<const Provider> ProviderForClient(const std::shared_ptr<const Provider>& provider,
                                                  const std::string& client_id, const Secret& client_secret) {
  if (client_id.empty()) return provider;
  auto own = std::make_shared<Provider>();
  own->id = provider->id;
  own->name = provider->name;
  own->options = provider->options;
  own->client_id = client_id;
  if (!client_secret.empty()) {
    own->client_secret = client_secret.Clone();
  } else if (SharesKey(own->options)) {
    own->client_secret = provider->client_secret.Clone();
    own->previous_client_secret = provider->previous_client_secret.Clone();
    own->signing_keys = provider->signing_keys;
  } else {
    own->options.auth_method = ClientAuthMethod::kNone;
  }
  return own;
}

}  // namespace token_refresh
