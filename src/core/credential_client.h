// A client that belongs to one credential, as dynamic registration gives it out (RFC 7591): the provider as that
// client sees it. For those who ask providers about one credential.
#pragma once

#include <memory>
#include <string>

#include "core/provider.h"
#include "core/secret.h"

namespace token_refresh {

// client_id empty: the credential has no client of its own, and the provider is returned as it is. Otherwise a copy
// with that client. Without a secret it is a public one (token_endpoint_auth_method none), but where a
// private key or a certificate proves more than a secret: all clients of the registration share the provider's.
std::shared_ptr<const Provider> ProviderForClient(const std::shared_ptr<const Provider>& provider,
                                                  const std::string& client_id, const Secret& client_secret);

}  // namespace token_refresh
