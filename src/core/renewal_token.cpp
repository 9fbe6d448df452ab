#include "core/renewal_token.h"

namespace token_refresh {
namespace {

constexpr std::string_view kNothingToPresent = "nothing is presented";

}  // namespace

void SetRenewalToken(RefreshWith refresh_with, TokenSet& tokens) {
  for (SecondaryTokens& secondary : tokens.secondary) SetRenewalToken(refresh_with, secondary.tokens);
  switch (refresh_with) {
    case RefreshWith::kRefreshToken:
      return;
    case RefreshWith::kAccessToken:
      tokens.refresh_token = tokens.access_token.Clone();
      return;
    case RefreshWith::kNothing:
      tokens.refresh_token = Secret(kNothingToPresent);
      return;
  }
}

bool IsRenewalMark(const Secret& token) { return token.Equals(kNothingToPresent); }

}  // namespace token_refresh
