#include "core/api_token.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "core/api_scope.h"

namespace token_refresh {
namespace {

std::string Make(std::string_view prefix) {
  Result<Secret> token = MakeApiToken(prefix);
  return token.ok() ? std::string(token->view()) : "error: " + token.error().message;
}

bool Recognised(std::string_view token) {
  Result<bool> recognised = IsApiToken(token);
  EXPECT_TRUE(recognised.ok());
  return recognised.ok() && *recognised;
}

TEST(ApiToken, IsPrefixAndFortyEightCharacters) {
  const std::string token = Make("tr_");
  EXPECT_EQ(token.size(), 3 + kApiTokenBodyChars);
  EXPECT_TRUE(token.starts_with("tr_"));
  EXPECT_TRUE(Recognised(token));
}

TEST(ApiToken, PrefixesMayBeEmptyOrLong) {
  EXPECT_TRUE(Recognised(Make("")));
  EXPECT_TRUE(Recognised(Make(std::string(kMaxApiTokenPrefix, 'p'))));
  EXPECT_FALSE(MakeApiToken(std::string(kMaxApiTokenPrefix + 1, 'p')).ok());
}

TEST(ApiToken, PrefixesOfOtherCharactersAreRefused) {
  for (const char* prefix : {"a b", "a/", "\xc3\xa4", "a\n", "a\"", "a:"}) {
    EXPECT_FALSE(IsApiTokenPrefix(prefix)) << prefix;
    Result<Secret> made = MakeApiToken(prefix);
    ASSERT_FALSE(made.ok());
    EXPECT_EQ(made.error().code, ErrorCode::kInvalidArgument);
    EXPECT_FALSE(made.error().hint.empty());
  }
}

TEST(ApiToken, NoTwoAreTheSame) {
  std::set<std::string> tokens;
  for (int i = 0; i < 1000; i++) tokens.insert(Make("tr_"));
  EXPECT_EQ(tokens.size(), 1000u);
}

TEST(ApiToken, EveryChangedCharacterIsNoticed) {
  const std::string token = Make("tr_");
  for (size_t i = 0; i < token.size(); i++) {
    std::string changed = token;
    changed[i] = changed[i] == 'A' ? 'B' : 'A';
    EXPECT_FALSE(Recognised(changed)) << "at " << i;
  }
}

TEST(ApiToken, ThePrefixIsPartOfTheChecksum) {
  const std::string token = Make("tr_");
  EXPECT_FALSE(Recognised(token.substr(3)));
  EXPECT_FALSE(Recognised("x" + token));
}

TEST(ApiToken, GarbageIsRefused) {
  const std::string token = Make("tr_");
  for (const std::string& garbage :
       {std::string(), std::string("tr_"), token.substr(0, token.size() - 1), token + "A", token + "=", token + "\n",
        " " + token, std::string(kApiTokenBodyChars, '!'), std::string(kApiTokenBodyChars, 'A'),
        std::string(1 << 20, 'A'), std::string(80, '\0'), std::string("\xff\xfe") + token})
    EXPECT_FALSE(Recognised(garbage)) << garbage.size();
}

TEST(ApiScope, CoversItself) {
  EXPECT_TRUE(ScopeCovers("api:read", "api:read"));
  EXPECT_FALSE(ScopeCovers("api:read", "api:write"));
  EXPECT_FALSE(ScopeCovers("api:read", "api:read:more"));
  EXPECT_FALSE(ScopeCovers("api", "api:read"));
  EXPECT_FALSE(ScopeCovers("API:READ", "api:read"));
}

TEST(ApiScope, AStarAtTheEndCoversAFamily) {
  EXPECT_TRUE(ScopeCovers("api:*", "api:read"));
  EXPECT_TRUE(ScopeCovers("api:*", "api:read:more"));
  EXPECT_FALSE(ScopeCovers("api:*", "api:"));
  EXPECT_FALSE(ScopeCovers("api:*", "api"));
  EXPECT_FALSE(ScopeCovers("api:*", "apix:read"));
  EXPECT_TRUE(ScopeCovers("*", "anything"));
  EXPECT_TRUE(ScopeCovers("*", ""));
}

TEST(ApiScope, AStarThatIsAskedForMeansNothing) {
  EXPECT_FALSE(ScopeCovers("api:read", "api:*"));
  EXPECT_FALSE(ScopeCovers("api:read", "*"));
}

TEST(ApiScope, WhatMayBeGranted) {
  for (const char* scope : {"api:read", "*", "api:*", "a", "https://example.org/scope", "a:b:*", "!#[]~"})
    EXPECT_TRUE(IsGrantableScope(scope)) << scope;
  for (const char* scope : {"", " ", "a b", "a\"b", "a\\b", "api*", "*:read", "a:*:b", ":*", "\xc3\xa4", "a\n", "**"})
    EXPECT_FALSE(IsGrantableScope(scope)) << scope;
  EXPECT_FALSE(IsGrantableScope(std::string(257, 'a')));
}

}  // namespace
}  // namespace token_refresh
