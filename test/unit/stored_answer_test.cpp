#include "core/stored_answer.h"

#include <gtest/gtest.h>

#include "option_parsing.h"

namespace token_refresh {
namespace {

constexpr Micros kNow = 1'700'000'000 * kSecond;

ProviderOptions Options(const std::string& options) {
  return ParsedOptions(R"({"token_endpoint": "https://as.example.com/token", )" + options + "}");
}

TokenSet Read(const std::string& options, std::string_view json) {
  Result<TokenSet> tokens = ReadStoredAnswer(Options(options), json, kNow);
  EXPECT_TRUE(tokens.ok()) << (tokens.ok() ? "" : tokens.error().message);
  return tokens.ok() ? *std::move(tokens) : TokenSet();
}

TEST(StoredAnswerTest, AsTheProviderHasAnsweredIt) {
  const TokenSet tokens = Read(
      R"("response_pointers": {"access_token": "/data/token", "refresh_token": "/data/next"}, "expires_in_unit": "ms",
         "captured_fields": {"shard": "/data/shard"})",
      R"({"data": {"token": "fake-access", "next": "fake-refresh", "shard": "eu"}, "expires_in": 3600000})");
  EXPECT_EQ(tokens.access_token.view(), "fake-access");
  EXPECT_EQ(tokens.refresh_token.view(), "fake-refresh");
  EXPECT_EQ(tokens.expires_in, kHour);
  EXPECT_EQ(tokens.captured, R"({"shard":"eu"})");
}

TEST(StoredAnswerTest, ThePlainFormDoesAsWell) {
  const std::string options = R"("response_pointers": {"access_token": "/data/token"})";
  EXPECT_EQ(Read(options, R"({"access_token": "fake-access", "expires_in": 60})").expires_in, kMinute);
  EXPECT_EQ(Read(R"("expires_in_unit": "ms")",
                 R"({"access_token": "fake-access", "expires_at": "2023-11-14T22:14:20Z"})").expires_in, kMinute);
}

TEST(StoredAnswerTest, SecondaryTokensComeAlong) {
  const TokenSet tokens = Read(
      R"("secondary_tokens": [{"label": "user", "pointer": "/authed_user"}])",
      R"({"access_token": "fake-bot", "authed_user": {"access_token": "fake-user", "expires_in": 60}})");
  ASSERT_EQ(tokens.secondary.size(), 1u);
  EXPECT_EQ(tokens.secondary[0].label, "user");
  EXPECT_EQ(tokens.secondary[0].tokens.access_token.view(), "fake-user");
}

TEST(StoredAnswerTest, WhatIsNeitherIsRefused) {
  Result<TokenSet> tokens =
      ReadStoredAnswer(Options(R"("response_pointers": {"access_token": "/data/token"})"), R"({"data": {}})", kNow);
  ASSERT_FALSE(tokens.ok());
  EXPECT_EQ(tokens.error().message, "token_response.access_token must be a non-empty text");
}

TEST(StoredAnswerTest, WhereNothingIsPresentedNoTokenIsNeeded) {
  const TokenSet tokens = Read(R"("grant_type": "client_credentials")", "{}");
  EXPECT_TRUE(tokens.access_token.empty());
  EXPECT_FALSE(tokens.refresh_token.empty());
  EXPECT_EQ(tokens.expires_in, 0);
}

}  // namespace
}  // namespace token_refresh
