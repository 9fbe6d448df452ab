// The URLs of a provider as the registration has them. For the SQL functions, which keep them beside its options.
#pragma once

#include <string>

#include "core/provider.h"

namespace token_refresh {

// A JSON object of the endpoints, issuer and jwks_uri that options have, by the keys of the options. The values of the
// registration have been put in; what is left of places is of captured fields.
std::string EndpointsJson(const ProviderOptions& options);

}  // namespace token_refresh
