#include "core/renewal_token.h"

#include <gtest/gtest.h>

#include <utility>

namespace token_refresh {
namespace {

TokenSet Tokens() {
  TokenSet tokens;
  tokens.access_token = Secret("fake-access");
  tokens.refresh_token = Secret("fake-refresh");
  return tokens;
}

TEST(RenewalTokenTest, ARefreshTokenStaysAsItCame) {
  TokenSet tokens = Tokens();
  SetRenewalToken(RefreshWith::kRefreshToken, tokens);
  EXPECT_EQ(tokens.refresh_token.view(), "fake-refresh");
  tokens.refresh_token.Wipe();
  SetRenewalToken(RefreshWith::kRefreshToken, tokens);
  EXPECT_TRUE(tokens.refresh_token.empty());
}

TEST(RenewalTokenTest, AnAccessTokenTakesItsPlace) {
  TokenSet tokens = Tokens();
  SetRenewalToken(RefreshWith::kAccessToken, tokens);
  EXPECT_EQ(tokens.refresh_token.view(), "fake-access");
  EXPECT_EQ(tokens.access_token.view(), "fake-access");
}

TEST(RenewalTokenTest, WhereNothingIsPresentedAMarkStandsThere) {
  TokenSet tokens = Tokens();
  SetRenewalToken(RefreshWith::kNothing, tokens);
  const Secret mark = tokens.refresh_token.Clone();
  EXPECT_FALSE(mark.empty());
  EXPECT_NE(mark.view(), "fake-refresh");
  SetRenewalToken(RefreshWith::kNothing, tokens);
  EXPECT_EQ(tokens.refresh_token.view(), mark.view());  // so it does not pass for a new one
  EXPECT_TRUE(IsRenewalMark(mark));
  EXPECT_FALSE(IsRenewalMark(tokens.access_token));
  EXPECT_FALSE(IsRenewalMark(Secret()));
}

TEST(RenewalTokenTest, SecondaryTokensToo) {
  TokenSet tokens = Tokens();
  SecondaryTokens secondary;
  secondary.label = "user";
  secondary.tokens.access_token = Secret("fake-user-access");
  tokens.secondary.push_back(std::move(secondary));
  SetRenewalToken(RefreshWith::kAccessToken, tokens);
  EXPECT_EQ(tokens.secondary[0].tokens.refresh_token.view(), "fake-user-access");
}

}  // namespace
}  // namespace token_refresh
