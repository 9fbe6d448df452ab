#include "core/id_token.h"

namespace token_refresh {

VerifiedJwt VerifyIdToken(const Provider& provider, std::string_view id_token, const JwkSet& keys,
                          const IdTokenRules& rules) {
  JwsRules form;
  form.max_bytes = kMaxIdTokenBytes;
  ClaimRules claims;
  claims.now = rules.now;
  claims.leeway = kIdTokenLeeway;
  claims.issuer = provider.options.issuer;
  claims.audience = provider.client_id;
  claims.check_authorized_party = true;
  claims.nonce = rules.nonce;
  claims.max_authentication_age = rules.max_authentication_age;
  claims.required = kIdTokenClaims;
  return VerifyJwt(id_token, keys, form, claims);
}

}  // namespace token_refresh
