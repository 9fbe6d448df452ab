// Answers that are not where, what or when RFC 6749 has them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "core/captured_fields.h"
#include "core/encoding.h"
#include "core/token_response.h"
#include "option_parsing.h"

namespace token_refresh {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr Micros kNow = 1'700'000'000 * kSecond;

std::variant<TokenSet, FailedAnswer> Read(std::string_view options, std::string_view body, int status = 200,
                                          std::string_view label = {}) {
  Provider provider;
  provider.options = ParsedOptions(options);
  HttpResponse response;
  response.status = status;
  response.body = Secret(body);
  return ReadTokenResponse(provider, response, {"fake-sent"}, kNow, TokenAsk::kRefresh, label);
}

TokenSet Tokens(std::string_view options, std::string_view body, int status = 200, std::string_view label = {}) {
  auto answer = Read(options, body, status, label);
  if (const auto* failed = std::get_if<FailedAnswer>(&answer)) {
    ADD_FAILURE() << failed->failure.message;
    return {};
  }
  return std::get<TokenSet>(std::move(answer));
}

FailedAnswer Refused(std::string_view options, std::string_view body, int status = 200) {
  auto answer = Read(options, body, status);
  if (auto* failed = std::get_if<FailedAnswer>(&answer)) return std::move(*failed);
  ADD_FAILURE() << "taken as a success";
  return {};
}

constexpr char kNested[] = R"({"response_pointers": {"access_token": "/data/accessToken", "refresh_token": "/data/next",
    "expires_in": "/data/ttl", "token_type": "/kind", "scope": "/data/scopes", "refresh_token_expires_in": "/data/end",
    "id_token": "/id"}})";

TEST(ResponsePointersTest, FieldsAreWhereTheyPoint) {
  const TokenSet tokens = Tokens(kNested, R"({"data": {"accessToken": "fake-a", "next": "fake-r", "ttl": "60",
      "scopes": ["x", "y"], "end": 120}, "kind": "bearer", "id": "fake-i"})");
  EXPECT_EQ(tokens.access_token.view(), "fake-a");
  EXPECT_EQ(tokens.refresh_token.view(), "fake-r");
  EXPECT_EQ(tokens.id_token.view(), "fake-i");
  EXPECT_EQ(tokens.expires_in, 60 * kSecond);
  EXPECT_EQ(tokens.refresh_expires_in, 120 * kSecond);
  EXPECT_EQ(tokens.scope, "x y");
  EXPECT_EQ(tokens.token_type, "Bearer");
  EXPECT_THAT(tokens.warnings, IsEmpty());
}

// The bot's token must never pass for the user's.
TEST(ResponsePointersTest, AFieldIsLookedForNowhereElse) {
  const FailedAnswer failed = Refused(kNested, R"({"access_token": "fake-other", "refresh_token": "fake-other-r"})");
  EXPECT_THAT(failed.failure.message, HasSubstr("the answer holds no access token"));
  EXPECT_TRUE(failed.refresh_token.empty());
  EXPECT_EQ(failed.failure.failure, FailureClass::kTransient);
}

TEST(ResponsePointersTest, ErrorsAreReadThereOrWhereTheyUsuallyAre) {
  constexpr char kOptions[] = R"({"response_pointers": {"error": "/errors/0/errorType",
      "error_description": "/errors/0/message"}})";
  const FailedAnswer there =
      Refused(kOptions, R"({"errors": [{"errorType": "invalid_grant", "message": "gone"}]})", 400);
  EXPECT_EQ(there.failure.failure, FailureClass::kReauth);
  EXPECT_EQ(there.failure.message, "HTTP 400 invalid_grant: gone");
  EXPECT_EQ(Refused(kOptions, R"({"error": "invalid_grant"})", 400).failure.failure, FailureClass::kReauth);
  constexpr char kNumber[] = R"({"response_pointers": {"error": "/code"}})";
  EXPECT_EQ(Refused(kNumber, R"({"code": 40100})", 400).failure.message, "HTTP 400 40100");
}

TEST(ResponsePointersTest, ACodeOfZeroIsNoError) {
  constexpr char kOptions[] = R"({"response_pointers": {"error": "/code"}})";
  for (const char* code : {"0", "null", "false", "0.0"}) {
    const TokenSet tokens = Tokens(kOptions, R"({"access_token": "fake-a", "code": )" + std::string(code) + "}");
    EXPECT_THAT(tokens.warnings, IsEmpty()) << code;
  }
  EXPECT_THAT(Tokens(kOptions, R"({"access_token": "fake-a", "code": 7})").warnings,
              ElementsAre(HasSubstr("an access token and an error")));
}

TEST(ResponsePointersTest, RulesSeeTheAnswerAsItCame) {
  constexpr char kOptions[] = R"({"response_pointers": {"access_token": "/data/token"},
      "error_rules": [{"pointer": "/access_token", "value": "none", "class": "reauth"}]})";
  EXPECT_EQ(Refused(kOptions, R"({"access_token": "none"})").failure.failure, FailureClass::kReauth);
}

TEST(ResponsePointersTest, ATokenThatIsNotTakenIsNotShown) {
  const FailedAnswer failed = Refused(R"({"response_pointers": {"access_token": "/data/token"}})",
                                      R"({"access_token": "hush", "error": "x", "message": "hush is yours"})", 400);
  EXPECT_THAT(failed.failure.message, testing::Not(HasSubstr("hush")));
}

TEST(SuccessTest, OtherStatuses) {
  constexpr char kBody[] = R"({"access_token": "fake-a"})";
  EXPECT_EQ(Tokens(R"({"success_statuses": [200, 422]})", kBody, 422).access_token.view(), "fake-a");
  const FailedAnswer failed = Refused(R"({"success_statuses": [200]})", kBody, 202);
  EXPECT_EQ(failed.failure.failure, FailureClass::kTransient);
  EXPECT_EQ(Tokens("{}", kBody, 202).access_token.view(), "fake-a");
}

TEST(SuccessTest, TheAnswerItselfSaysIt) {
  constexpr char kOptions[] = R"({"success_pointer": "/meta/code", "success_value": "0",
      "error_rules": [{"pointer": "/meta/code", "value": "10010", "class": "reauth"}]})";
  EXPECT_EQ(Tokens(kOptions, R"({"meta": {"code": 0}, "access_token": "fake-a"})").access_token.view(), "fake-a");
  EXPECT_EQ(Tokens(kOptions, R"({"meta": {"code": "0"}, "access_token": "fake-a"})").access_token.view(), "fake-a");
  EXPECT_EQ(Refused(kOptions, R"({"meta": {"code": 10010}, "access_token": "fake-a"})").failure.failure,
            FailureClass::kReauth);
  const FailedAnswer failed = Refused(kOptions, R"({"access_token": "fake-a", "refresh_token": "fake-r"})");
  EXPECT_EQ(failed.failure.message, "HTTP 200: the answer does not say that it is a success");
  EXPECT_TRUE(failed.refresh_token.empty());
  EXPECT_FALSE(failed.unread_success);
}

TEST(SuccessTest, WithoutAValueAnythingTrueIs) {
  constexpr char kOptions[] = R"({"success_pointer": "/ok"})";
  for (const char* ok : {"true", "1", "\"yes\"", "{}"}) {
    Tokens(kOptions, R"({"access_token": "fake-a", "ok": )" + std::string(ok) + "}");
  }
  for (const char* ok : {"false", "null"}) {
    Refused(kOptions, R"({"access_token": "fake-a", "ok": )" + std::string(ok) + "}");
  }
}

TEST(SuccessTest, DamageIsJudgedByWhatCanBeRead) {
  const FailedAnswer failed = Refused(R"({"success_pointer": "/ok"})", R"({"access_token": "fake-a", "expires)");
  EXPECT_TRUE(failed.unread_success);
}

TEST(ExpiryTest, InMilliseconds) {
  const TokenSet tokens = Tokens(R"({"expires_in_unit": "ms"})",
                                 R"({"access_token": "a", "expires_in": "3600000", "refresh_expires_in": 7200000})");
  EXPECT_EQ(tokens.expires_in, kHour);
  EXPECT_EQ(tokens.refresh_expires_in, 2 * kHour);
}

TEST(ExpiryTest, AtATime) {
  constexpr char kOptions[] = R"({"response_pointers": {"expires_at": "/until"}})";
  const auto lifetime = [&](std::string_view until) {
    return Tokens(kOptions, R"({"access_token": "a", "expires_in": 60, "until": )" + std::string(until) + "}")
        .expires_in;
  };
  for (const char* until : {"1700003600", "1700003600000", "\"1700003600\"", "\"2023-11-14T23:13:20Z\"",
                            "\"2023-11-14T23:13:20.000\"", "\"2023-11-15T00:13:20+01:00\"", "1.7000036e9"}) {
    EXPECT_EQ(lifetime(until), kHour) << until;
  }
  EXPECT_EQ(lifetime("99999999999"), kMaxLifetime);
  EXPECT_EQ(lifetime("null"), kMinute);
  for (const char* until : {"1700000000", "1", "-5", "\"soon\"", "{}", "1e300"}) {
    const TokenSet tokens = Tokens(kOptions, R"({"access_token": "a", "until": )" + std::string(until) + "}");
    EXPECT_EQ(tokens.expires_in, std::nullopt) << until;
    EXPECT_THAT(tokens.warnings, ElementsAre("expires_at is not a time in the future; ignored")) << until;
  }
}

TEST(ExpiryTest, AnUnaskedExpiresAtIsNotRead) {
  EXPECT_EQ(Tokens("{}", R"({"access_token": "a", "expires_at": 1700003600})").expires_in, std::nullopt);
}

std::string Jwt(std::string_view claims) { return "e30." + Base64UrlEncode(claims) + ".fake"; }

TEST(ExpiryTest, OfTheJwt) {
  constexpr char kOptions[] = R"({"expiry_source": "jwt"})";
  const auto read = [&](const std::string& token) {
    return Tokens(kOptions, R"({"expires_in": 60, "access_token": ")" + token + "\"}");
  };
  const TokenSet tokens = read(Jwt(R"({"exp": 1700003600})"));
  EXPECT_EQ(tokens.expires_in, kHour);
  EXPECT_THAT(tokens.warnings, IsEmpty());
  for (const std::string& token : {std::string("opaque"), std::string("a.b"), std::string("a.!!.c"), Jwt("{}"),
                                   Jwt("7"), Jwt(R"({"exp": "x"})"), Jwt(R"({"exp": 1})")}) {
    const TokenSet other = read(token);
    EXPECT_EQ(other.expires_in, kMinute) << token;
    EXPECT_THAT(other.warnings, ElementsAre(HasSubstr("not a JWT with an expiry"))) << token;
  }
}

TEST(CapturedFieldsTest, AreTakenFromTheAnswer) {
  const TokenSet tokens =
      Tokens(R"({"captured_fields": {"team": "/team/id", "shard": "/shard", "n": "/n", "b": "/b"}})",
             R"({"access_token": "a", "team": {"id": "T\"1"}, "n": 7, "b": true, "shard": null})");
  EXPECT_EQ(tokens.captured, R"({"b":"true","n":"7","team":"T\"1"})");
  EXPECT_THAT(tokens.warnings, IsEmpty());
  EXPECT_EQ(Tokens(R"({"captured_fields": ["shard"]})", R"({"access_token": "a"})").captured, "");
  EXPECT_EQ(Tokens("{}", R"({"access_token": "a", "shard": "s"})").captured, "");
}

// What is captured is not sealed, wherever the provider keeps its tokens.
TEST(CapturedFieldsTest, ATokenUnderAnotherNameIsRefused) {
  for (const std::string field : {"access_token", "refresh_token", "id_token"}) {
    const std::string options = R"({"captured_fields": {"jwt": "/data/jwt"}, "response_pointers": {")" + field;
    EXPECT_EQ(RefusedOptions(options + R"(": "/data/jwt"}})").message,
              R"(option "captured_fields" must not capture a token)");
    ParsedOptions(options + R"(": "/data/other"}})");
  }
  ParsedOptions(R"({"captured_fields": {"kind": "/data/kind"}, "response_pointers": {"token_type": "/data/kind"}})");
}

TEST(CapturedFieldsTest, WhatCannotBeStoredIsSaid) {
  const std::string body = R"({"access_token": "a", "o": {}, "s": "a\u0001", "l": ")" + std::string(2000, 'x') + "\"}";
  const TokenSet tokens = Tokens(R"({"captured_fields": ["o", "s", "l"]})", body);
  EXPECT_EQ(tokens.captured, "");
  EXPECT_THAT(tokens.warnings, ElementsAre("l is not a short text; not captured", "o is not a short text; not captured",
                                           "s is not a short text; not captured"));
}

TEST(CapturedFieldsTest, OfAStoredResponse) {
  const ProviderOptions options = ParsedOptions(R"({"captured_fields": ["shard"]})");
  EXPECT_EQ(CaptureFields(options, R"({"access_token": "a", "shard": "eu"})"), R"({"shard":"eu"})");
  EXPECT_EQ(CaptureFields(options, "not json"), "");
  EXPECT_EQ(CaptureFields(ProviderOptions(), R"({"shard": "eu"})"), "");
}

TEST(CapturedFieldsTest, NewOnesReplaceTheOld) {
  EXPECT_EQ(MergeCaptured(R"({"a":"1","b":"2"})", R"({"b":"3"})"), R"({"a":"1","b":"3"})");
  EXPECT_EQ(MergeCaptured("", R"({"b":"3"})"), R"({"b":"3"})");
  EXPECT_EQ(MergeCaptured(R"({"a":"1"})", ""), R"({"a":"1"})");
  EXPECT_EQ(MergeCaptured("broken", ""), "broken");
  EXPECT_EQ(MergeCaptured("broken", R"({"a":"1"})"), R"({"a":"1"})");
}

TEST(SecondaryTokensTest, ACredentialOfThatLabelFindsItsOwnInTheirPlace) {
  constexpr char kOptions[] = R"({"secondary_tokens": [{"label": "user", "pointer": "/authed_user"}]})";
  const auto read = [&](std::string_view body, std::string_view label) { return Tokens(kOptions, body, 200, label); };
  const TokenSet own = read(R"({"ok": true, "authed_user": {"access_token": "u", "refresh_token": "r"}})", "user");
  EXPECT_EQ(own.access_token.view(), "u");
  EXPECT_EQ(own.refresh_token.view(), "r");
  EXPECT_THAT(own.secondary, IsEmpty());
  const TokenSet both = read(R"({"access_token": "b", "authed_user": {"access_token": "u"}})", "user");
  EXPECT_EQ(both.access_token.view(), "u");
  EXPECT_THAT(both.secondary, IsEmpty());
  EXPECT_EQ(read(R"({"access_token": "u2", "authed_user": {"id": "U1"}})", "user").access_token.view(), "u2");
  EXPECT_EQ(read(R"({"access_token": "b", "authed_user": {"access_token": "u"}})", "other").secondary.size(), 1u);
}

TEST(SecondaryTokensTest, EachIsReadForItself) {
  constexpr char kOptions[] = R"({"secondary_tokens": [{"label": "user", "pointer": "/authed_user"}]})";
  const TokenSet tokens = Tokens(kOptions, R"({"ok": true, "access_token": "fake-bot", "refresh_token": "fake-bot-r",
      "expires_in": 43200, "authed_user": {"id": "U1", "access_token": "fake-user", "refresh_token": "fake-user-r",
      "expires_in": 3600, "token_type": "user", "scope": "chat:write"}})");
  EXPECT_EQ(tokens.access_token.view(), "fake-bot");
  ASSERT_EQ(tokens.secondary.size(), 1u);
  EXPECT_EQ(tokens.secondary[0].label, "user");
  const TokenSet& user = tokens.secondary[0].tokens;
  EXPECT_EQ(user.access_token.view(), "fake-user");
  EXPECT_EQ(user.refresh_token.view(), "fake-user-r");
  EXPECT_EQ(user.expires_in, kHour);
  EXPECT_EQ(user.token_type, "user");
  EXPECT_EQ(user.scope, "chat:write");
  EXPECT_THAT(Tokens(kOptions, R"({"access_token": "a", "authed_user": {"id": "U1"}})").secondary, IsEmpty());
  const TokenSet odd = Tokens(kOptions, R"({"access_token": "a", "authed_user": {"access_token": 7}})");
  EXPECT_THAT(odd.secondary, IsEmpty());
  EXPECT_THAT(odd.warnings, ElementsAre("tokens of label user: the access token in the answer is not text; ignored"));
}

TEST(SecondaryTokensTest, EachHasItsLifetimeAndAllHaveWhatIsCaptured) {
  constexpr char kOptions[] = R"({"secondary_tokens": [{"label": "user", "pointer": "/authed_user"}],
      "captured_fields": {"team": "/team/id"}, "expires_in_unit": "ms", "expiry_source": "jwt"})";
  constexpr char kUser[] = R"({"team": {"id": "T1"}, "authed_user": {"access_token": "opaque", "expires_in": 3600000}})";
  const std::string both = R"({"access_token": ")" + Jwt(R"({"exp": 1700003600})") + "\"," + (kUser + 1);
  const TokenSet tokens = Tokens(kOptions, both);
  ASSERT_EQ(tokens.secondary.size(), 1u);
  EXPECT_EQ(tokens.secondary[0].tokens.captured, R"({"team":"T1"})");
  EXPECT_EQ(tokens.secondary[0].tokens.expires_in, kHour);
  EXPECT_THAT(tokens.warnings, ElementsAre(HasSubstr("tokens of label user: the access token is not a JWT")));
  EXPECT_EQ(Tokens(kOptions, kUser, 200, "user").expires_in, kHour);
}

TEST(ClientRefusedTest, OnlyInvalidClientIs) {
  EXPECT_TRUE(Refused("{}", R"({"error": "invalid_client"})", 401).client_refused);
  EXPECT_TRUE(Refused("{}", R"({"error": "invalid_client"})", 200).client_refused);
  EXPECT_FALSE(Refused("{}", R"({"error": "unauthorized_client"})", 401).client_refused);
  EXPECT_FALSE(Refused("{}", R"({"error": "invalid_grant"})", 400).client_refused);
  EXPECT_FALSE(Refused("{}", R"({"error": "invalid_client"})", 503).client_refused);
  EXPECT_TRUE(
      Refused(R"({"response_pointers": {"error": "/code"}})", R"({"code": "invalid_client"})", 400).client_refused);
}

TEST(AnswerOptionsTest, RefusesWhatMakesNoSense) {
  const auto refused = [](std::string_view json) { return RefusedOptions(json).message; };
  EXPECT_EQ(refused(R"({"response_pointers": {"acces_token": "/a"}})"),
            R"(option "response_pointers" has an unknown member "acces_token")");
  EXPECT_EQ(RefusedOptions(R"({"response_pointers": {"acces_token": "/a"}})").hint.substr(0, 28),
            "Did you mean \"access_token\"?");
  EXPECT_EQ(refused(R"({"response_pointers": {"scope": "a"}})"),
            R"(option "response_pointers.scope" is not a JSON pointer (RFC 6901))");
  EXPECT_EQ(refused(R"({"success_statuses": []})"), R"(option "success_statuses" must not be empty)");
  EXPECT_EQ(refused(R"({"success_statuses": ["200"]})"),
            R"(option "success_statuses[0]" must be a whole number, not text)");
  for (const char* status : {"302", "429"}) {
    EXPECT_EQ(refused("{\"success_statuses\": [200, " + std::string(status) + "]}"),
              R"(option "success_statuses[1]" must be of 2xx or 4xx, and not 429)");
  }
  EXPECT_THAT(refused(R"({"success_statuses": [500]})"), HasSubstr("must be between 200 and 499"));
  EXPECT_EQ(refused(R"({"success_value": "x"})"), R"(option "success_value" needs option "success_pointer")");
  EXPECT_EQ(refused(R"({"expires_in_unit": "h"})"), R"(option "expires_in_unit" must be "s" or "ms", not "h")");
  EXPECT_EQ(refused(R"({"captured_fields": "x"})"),
            R"(option "captured_fields" must be an object or an array, not text)");
  EXPECT_EQ(refused(R"({"captured_fields": ["refresh_token"]})"),
            R"(option "captured_fields" must not capture a token)");
  EXPECT_EQ(refused(R"({"captured_fields": {"x": "/a/access_token"}})"),
            R"(option "captured_fields" must not capture a token)");
  EXPECT_EQ(refused(R"({"captured_fields": ["uuid"]})"),
            R"(option "captured_fields" must not hold "uuid", which has a meaning of its own)");
  EXPECT_EQ(refused(R"({"captured_fields": {"x": "a"}})"),
            R"(option "captured_fields" has no JSON pointer (RFC 6901) for "x")");
  EXPECT_EQ(refused(R"({"secondary_tokens": [{"pointer": "/a"}]})"), R"(option "secondary_tokens[0]" needs a label)");
  EXPECT_EQ(refused(R"({"secondary_tokens": [{"label": "a"}]})"),
            R"(option "secondary_tokens[0].pointer" is not a JSON pointer (RFC 6901))");
  EXPECT_EQ(refused(R"({"secondary_tokens": [{"label": "a", "pointer": "/a"}, {"label": "a", "pointer": "/b"}]})"),
            R"(option "secondary_tokens[1]" has the label of an earlier one)");
  EXPECT_EQ(refused(R"({"secondary_tokens": [{"label": ")" + std::string(201, 'l') + R"(", "pointer": "/a"}]})"),
            R"(option "secondary_tokens[0].label" must be at most 200 bytes long)");
  EXPECT_EQ(refused(R"({"secondary_tokens": [{"name": "a"}]})"),
            R"(option "secondary_tokens[0]" has an unknown member "name")");
}

}  // namespace
}  // namespace token_refresh
