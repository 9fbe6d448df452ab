#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "core/iso_time.h"
#include "core/token_response.h"

namespace token_refresh {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr Micros kNow = 1'700'000'000 * kSecond;  // 2023-11-14T22:13:20Z

TokenSet Parsed(std::string_view json) {
  Result<TokenSet> tokens = ParseStoredTokens(json, kNow);
  if (!tokens) {
    ADD_FAILURE() << json << ": " << tokens.error().message;
    return {};
  }
  return *std::move(tokens);
}

std::string Refused(std::string_view json) {
  const Result<TokenSet> tokens = ParseStoredTokens(json, kNow);
  if (tokens) return "accepted";
  EXPECT_EQ(tokens.error().code, ErrorCode::kInvalidArgument);
  return tokens.error().message;
}

// A response with an access token and one more member.
std::string With(std::string_view member) { return "{\"access_token\":\"fake-a\"," + std::string(member) + "}"; }

TEST(StoredTokensTest, ReadsAWholeResponse) {
  const TokenSet tokens = Parsed(R"({"access_token":"fake-a","refresh_token":"fake-r","token_type":"bearer",
      "expires_in":3600,"scope":"a b","refresh_token_expires_in":"86400","refresh_in":1800,"id_token":7,"x":{"y":[]}})");
  EXPECT_EQ(tokens.access_token.view(), "fake-a");
  EXPECT_EQ(tokens.refresh_token.view(), "fake-r");
  EXPECT_EQ(tokens.token_type, "Bearer");
  EXPECT_EQ(tokens.scope, "a b");
  EXPECT_EQ(tokens.expires_in, kHour);
  EXPECT_EQ(tokens.refresh_expires_in, kDay);
  EXPECT_EQ(tokens.refresh_in, 30 * kMinute);
  EXPECT_TRUE(tokens.warnings.empty());
}

TEST(StoredTokensTest, NullsCountAsAbsent) {
  const TokenSet tokens = Parsed(With(
      R"("refresh_token":null,"token_type":null,"expires_in":null,"expires_at":null,"scope":null,"refresh_in":null)"));
  EXPECT_TRUE(tokens.refresh_token.empty());
  EXPECT_EQ(tokens.token_type, "Bearer");
  EXPECT_FALSE(tokens.expires_in.has_value());
  EXPECT_FALSE(tokens.refresh_in.has_value());
}

TEST(StoredTokensTest, ReadsScopeLists) { EXPECT_EQ(Parsed(With(R"("scope":["a","b"])")).scope, "a b"); }

TEST(StoredTokensTest, ReadsExpiryInEachForm) {
  const auto expiry = [](std::string_view member) { return Parsed(With(member)).expires_in; };
  EXPECT_EQ(expiry(R"("expires_in":"3600.9")"), kHour);
  EXPECT_EQ(expiry(R"("expires_in":99999999999)"), kMaxLifetime);
  EXPECT_EQ(expiry(R"("expires_at":1700003600)"), kHour);
  EXPECT_EQ(expiry(R"("expires_at":1700003600.5)"), kHour + kSecond / 2);
  EXPECT_EQ(expiry(R"("expires_at":1700003600500)"), kHour + kSecond / 2);
  EXPECT_EQ(expiry(R"("expires_at":"2023-11-14T23:13:20Z")"), kHour);
  EXPECT_EQ(expiry(R"("expires_at":"2023-11-15 00:13:20.25+01")"), kHour + kSecond / 4);
  EXPECT_EQ(expiry(R"("expires_at":"9999-12-31T23:59:59Z")"), kMaxLifetime);
  EXPECT_EQ(expiry(R"("expires":"5183999")"), 5183999 * kSecond);
  EXPECT_EQ(expiry(R"("expires":1700003600)"), std::nullopt);
}

TEST(StoredTokensTest, WhatHasExpiredStaysExpired) {
  EXPECT_EQ(Parsed(With(R"("expires_at":"2023-11-14T21:13:20Z")")).expires_in, -kHour);
  EXPECT_EQ(Parsed(With(R"("expires_at":1700000000)")).expires_in, 0);
}

TEST(StoredTokensTest, ARefreshDeadlineOfZeroMeansNone) {
  EXPECT_FALSE(Parsed(With(R"("refresh_expires_in":0)")).refresh_expires_in.has_value());
  EXPECT_EQ(Parsed(With(R"("x_refresh_token_expires_in":60)")).refresh_expires_in, kMinute);
}

TEST(StoredTokensTest, RefusesWhatIsNoObject) {
  for (const char* json : {"", "[]", "null", "\"fake-a\"", "{", "7"}) {
    EXPECT_EQ(Refused(json), "token_response must be a JSON object") << json;
  }
}

TEST(StoredTokensTest, NeedsAnAccessToken) {
  for (const char* json :
       {"{}", R"({"access_token":""})", R"({"access_token":null})", R"({"refresh_token":"fake-r"})"}) {
    EXPECT_EQ(Refused(json), "token_response.access_token must be a non-empty text") << json;
  }
  EXPECT_EQ(Refused(R"({"access_token":7})"), "token_response.access_token must be text, not a number");
}

TEST(StoredTokensTest, NamesTheKeyThatIsWrong) {
  EXPECT_EQ(Refused(With(R"("refresh_token":["fake-r"])")), "token_response.refresh_token must be text, not an array");
  EXPECT_EQ(Refused(With(R"("refresh_token":"a\nb")")),
            "token_response.refresh_token must not hold control characters");
  for (const char* value : {"0", "-5", "\"soon\"", "false", "{}", "\"\""}) {
    EXPECT_EQ(Refused(With("\"expires_in\":" + std::string(value))),
              "token_response.expires_in must be a positive number of seconds");
    EXPECT_EQ(Refused(With("\"refresh_in\":" + std::string(value))),
              "token_response.refresh_in must be a positive number of seconds");
  }
  EXPECT_EQ(Refused(With(R"("refresh_token_expires_in":"soon")")),
            "token_response.refresh_token_expires_in must be a positive number of seconds");
  EXPECT_EQ(Refused(With(R"("expires_at":"tomorrow")")),
            "token_response.expires_at must be an ISO 8601 time with a time zone");
  EXPECT_EQ(Refused(With(R"("expires_at":"2023-11-14T23:13:20")")),
            "token_response.expires_at must be an ISO 8601 time with a time zone");
  EXPECT_EQ(Refused(With(R"("expires_at":true)")), "token_response.expires_at must be a time, not a boolean");
  for (const char* value : {"0", "-1700000000", "1e14", "1e300"}) {
    EXPECT_EQ(Refused(With("\"expires_at\":" + std::string(value))),
              "token_response.expires_at must be seconds or milliseconds since 1970");
  }
  EXPECT_EQ(Refused(With(R"("expires_in":60,"expires_at":1700000000)")),
            "token_response holds both expires_in and expires_at");
  EXPECT_EQ(Refused(With(R"("token_type":7)")),
            "token_response.token_type must be text of 1 to 64 printable ASCII characters");
  EXPECT_EQ(Refused(With(R"("scope":{"a":1})")),
            "token_response.scope must be text, or an array of texts, without control characters");
}

TEST(StoredTokensTest, IsBounded) {
  const std::string largest(64 * 1024, 'a');
  for (const std::string key : {"access_token", "refresh_token"}) {
    const std::string start = key == "access_token" ? "{\"" : "{\"access_token\":\"a\",\"";
    EXPECT_EQ(Refused(start + key + "\":\"" + largest + "\"}"), "accepted");
    EXPECT_EQ(Refused(start + key + "\":\"" + largest + "a\"}"),
              "token_response." + key + " must be at most 65536 bytes long");
  }
  EXPECT_EQ(Refused(With("\"x\":\"" + std::string(1024 * 1024, 'x') + "\"")),
            "token_response must be at most 1 MiB long");
  EXPECT_EQ(Refused(With("\"x\":" + std::string(100, '[') + std::string(100, ']'))),
            "token_response must be nested at most 32 levels deep");
}

TEST(StoredTokensTest, NoMessageHoldsAToken) {
  for (const char* json :
       {R"({"access_token":{"fake-a":1}})", R"({"access_token":"fake-a\u0000"})",
        R"({"access_token":"fake-a","refresh_token":{"fake-r":1}})", R"({"access_token":"fake-a",)"}) {
    EXPECT_THAT(Refused(json), Not(HasSubstr("fake")));
    EXPECT_NE(Refused(json), "accepted");
  }
}

TEST(IsoTimeTest, ReadsTheForms) {
  EXPECT_EQ(ParseIsoTime("1970-01-01T00:00:00Z"), 0);
  EXPECT_EQ(ParseIsoTime("2023-11-14T22:13:20Z"), kNow);
  EXPECT_EQ(ParseIsoTime("2023-11-14 22:13:20+00"), kNow);
  EXPECT_EQ(ParseIsoTime("2023-11-15T03:58:20+05:45"), kNow);
  EXPECT_EQ(ParseIsoTime("2023-11-14T18:43:20-03:30"), kNow);
  EXPECT_EQ(ParseIsoTime("2023-11-14T22:13:20.5Z"), kNow + kSecond / 2);
  EXPECT_EQ(ParseIsoTime("2023-11-14T22:13:20.0000019Z"), kNow + 1);
  EXPECT_EQ(ParseIsoTime("2023-11-14T22:13:20." + std::string(100, '9') + "Z"), kNow + kSecond - 1);
  EXPECT_EQ(ParseIsoTime("2024-02-29T00:00:00Z"), 1709164800 * kSecond);
  EXPECT_EQ(ParseIsoTime("1969-12-31T23:59:59Z"), -kSecond);
}

TEST(IsoTimeTest, RefusesAllElse) {
  for (const char* text : {"",
                           "2023",
                           "2023-11-14",
                           "2023-11-14T22:13:20",
                           "2023-11-14T22:13Z",
                           "2023-02-29T00:00:00Z",
                           "2023-13-01T00:00:00Z",
                           "2023-00-01T00:00:00Z",
                           "2023-04-31T00:00:00Z",
                           "2023-11-14T24:00:00Z",
                           "2023-11-14T22:60:20Z",
                           "2023-11-14T22:13:60Z",
                           "2023-11-14T22:13:20.Z",
                           "2023-11-14T22:13:20+0",
                           "2023-11-14T22:13:20+24",
                           "2023-11-14T22:13:20+01:",
                           "2023-11-14T22:13:20+01:60",
                           "2023-11-14T22:13:20Zx",
                           "2023-11-14T22:13:20 Z",
                           " 2023-11-14T22:13:20Z",
                           "2023-11-14_22:13:20Z",
                           "-023-11-14T22:13:20Z",
                           "20231114T221320Z",
                           "2023-1-14T22:13:20Z"}) {
    EXPECT_FALSE(ParseIsoTime(text).has_value()) << text;
  }
}

}  // namespace
}  // namespace token_refresh
