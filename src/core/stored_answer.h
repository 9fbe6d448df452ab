// What an application hands to store_credential, for a provider with a dialect of its own: as the provider has
// answered it, or in the plain form of ParseStoredTokens. For store_credential.
#pragma once

#include <string_view>

#include "core/provider.h"
#include "core/token_response.h"

namespace token_refresh {

// In the plain form are those that have access_token and expires_at, and those that the dialect does not understand.
// What stands in place of a refresh token is there (renewal_token.h). Errors: as ParseStoredTokens.
Result<TokenSet> ReadStoredAnswer(const ProviderOptions& options, std::string_view json, Micros now);

// For tokens that nobody has told the lifetime of: the assumed one, where there is a refresh token, or the provider's
// own. Not where the provider is going to be asked. Of secondary tokens as well.
void AssumeLifetime(const RefreshTiming& timing, TokenSet& tokens);

}  // namespace token_refresh
