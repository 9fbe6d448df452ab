// What stands where the refresh token of a credential stands: what is presented to get the next access token. So a
// grant without refresh tokens is stored, compared, parked and refreshed like any other. For the engine, and for
// those who store tokens that did not come from a refresh.
#pragma once

#include "core/provider_dialect.h"
#include "core/token_response.h"

namespace token_refresh {

// By the provider's option refresh_with: the refresh token as it came; the access token itself; or, where nothing is
// presented, a mark that is never sent. Of secondary tokens as well.
void SetRenewalToken(RefreshWith refresh_with, TokenSet& tokens);

// Whether it is that mark.
bool IsRenewalMark(const Secret& token);

}  // namespace token_refresh
