// Answers without an access token: which class of failure they are, what is kept of them, what is said of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "core/utf8.h"
#include "token_answers.h"

namespace token_refresh {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(FailedAnswerTest, KeepsARefreshTokenThatComesWithoutAnAccessToken) {
  for (const char* access_token : {"", R"("access_token":null,)", R"("access_token":"",)", R"("access_token":7,)",
                                   R"("access_token":"a\u0000b",)", R"("access_token":{"value":"a"},)"}) {
    for (const int status : {200, 202}) {
      const FailedAnswer failed = Refused(
          Answer(status, "{" + std::string(access_token) + R"("refresh_token":"fake-r","refresh_expires_in":60})"));
      EXPECT_EQ(failed.failure.failure, FailureClass::kTransient);
      EXPECT_THAT(failed.failure.message, testing::EndsWith("; its refresh token is kept"));
      EXPECT_THAT(failed.failure.message, Not(HasSubstr("fake-r")));
      EXPECT_EQ(failed.refresh_token.view(), "fake-r");
      EXPECT_EQ(failed.refresh_expires_in, kMinute);
      EXPECT_FALSE(failed.unread_success);
    }
  }
  EXPECT_EQ(Refused("refresh_token=fake-r&expires_in=60").refresh_token.view(), "fake-r");
}

TEST(FailedAnswerTest, TakesNoRefreshTokenFromARefusal) {
  for (const char* refusal : {R"("error":"invalid_grant")", R"("error":"server_error")", R"("ok":false)"}) {
    const FailedAnswer failed = Refused("{\"refresh_token\":\"fake-r\"," + std::string(refusal) + "}");
    EXPECT_TRUE(failed.refresh_token.empty()) << refusal;
    EXPECT_FALSE(failed.unread_success) << refusal;
    EXPECT_THAT(failed.failure.message, Not(HasSubstr("kept")));
  }
  const Provider provider =
      ProviderWith(R"({"error_rules":[{"pointer":"/state","value":"busy","class":"rate_limited"}]})");
  const FailedAnswer mapped = Refused(Answer(200, R"({"refresh_token":"fake-r","state":"busy"})"), provider);
  EXPECT_EQ(mapped.failure.failure, FailureClass::kRateLimited);
  EXPECT_TRUE(mapped.refresh_token.empty());
  EXPECT_FALSE(mapped.unread_success);
}

TEST(FailedAnswerTest, KeepRefreshTokenIgnoresTheOneInTheAnswer) {
  const Provider provider = ProviderWith(R"({"keep_refresh_token": true})");
  EXPECT_TRUE(Refused(Answer(200, R"({"refresh_token":"fake-r"})"), provider).refresh_token.empty());
}

TEST(FailedAnswerTest, KnowsASuccessThatItCouldNotRead) {
  const std::string deep = "{\"a\":" + std::string(40, '[') + std::string(40, ']') + "}";
  for (const std::string& body : {std::string(), std::string("<html>"), std::string("{"), std::string("sesame"), deep,
                                  std::string(R"(["a"])"), std::string(R"({"token_type":"Bearer"})"),
                                  std::string(R"({"refresh_token":["fake-r"]})")}) {
    EXPECT_TRUE(Refused(Answer(200, body)).unread_success) << body;
    EXPECT_TRUE(Refused(Answer(204, body)).unread_success) << body;
    EXPECT_FALSE(Refused(Answer(400, body)).unread_success) << body;
    EXPECT_FALSE(Refused(Answer(502, body)).unread_success) << body;
  }
  EXPECT_FALSE(Refused(R"({"error":"gone_fishing"})").unread_success);
}

TEST(FailedAnswerTest, TheMessageStaysShort) {
  const FailedAnswer failed =
      Refused("{\"refresh_token\":\"fake-r\",\"message\":\"" + std::string(1000, ' ') + std::string(500, '.') + "\"}");
  EXPECT_LE(failed.failure.message.size(), kMaxFailureMessage);
  EXPECT_EQ(failed.refresh_token.view(), "fake-r");
}

TEST(TokenResponseTest, TransportFailuresAreTransient) {
  for (const TransportFailure kind : {TransportFailure::kNotSent, TransportFailure::kMaybeHandled,
                                      TransportFailure::kTooLarge, TransportFailure::kRefused}) {
    HttpResponse response = Answer(400, R"({"error":"invalid_grant"})");
    response.failure = kind;
    response.failure_message = "connection to fake-sent refused";
    const Failure failure = Failed(response);
    EXPECT_EQ(failure.failure, FailureClass::kTransient);
    EXPECT_EQ(failure.message, "connection to [redacted] refused");
  }
  HttpResponse silent;
  silent.failure = TransportFailure::kNotSent;
  EXPECT_EQ(Failed(silent).message, "no answer");
}

TEST(TokenResponseTest, HeedsRetryAfterWhereItMeansUs) {
  const auto retry_after = [](int status, std::string_view body) {
    HttpResponse response = Answer(status, body);
    response.retry_after = "120";
    return Failed(response).retry_after_us;
  };
  EXPECT_EQ(retry_after(429, ""), 2 * kMinute);
  EXPECT_EQ(retry_after(503, "<html>"), 2 * kMinute);
  EXPECT_EQ(retry_after(400, R"({"error":"slow_down"})"), 2 * kMinute);
  EXPECT_EQ(retry_after(400, R"({"error":"invalid_grant"})"), std::nullopt);
  HttpResponse unavailable = Answer(503, "");
  unavailable.retry_after = "1";
  EXPECT_EQ(Failed(unavailable).failure, FailureClass::kTransient);
}

TEST(ErrorRuleTest, RulesComeFirstAndInOrder) {
  const Provider provider = ProviderWith(R"({"error_rules": [
      {"status": 403, "pointer": "/error", "value": "unauthorized_client", "class": "reauth"},
      {"pointer": "/errors/0/errorType", "value": "invalid_grant", "class": "reauth"},
      {"pointer": "/status", "value": "BAD_*", "class": "reauth"},
      {"pointer": "/error/code", "value": "190", "class": "reauth"},
      {"pointer": "/error", "value": "invalid_grant", "class": "too_early"},
      {"pointer": "/error", "value": "invalid_grant", "class": "client_config"},
      {"pointer": "/a~1b/m~0n", "class": "rate_limited"},
      {"status": 418, "class": "rate_limited"}]})");
  const auto failure = [&provider](int status, std::string_view body) {
    return FailureName(Failed(Answer(status, body), provider).failure);
  };
  EXPECT_EQ(failure(403, R"({"error":"unauthorized_client"})"), "reauth");
  EXPECT_EQ(failure(400, R"({"error":"unauthorized_client"})"), "client_config");
  EXPECT_EQ(failure(400, R"({"errors":[{"errorType":"invalid_grant"}]})"), "reauth");
  EXPECT_EQ(failure(400, R"({"errors":{"0":{"errorType":"invalid_grant"}}})"), "reauth");
  EXPECT_EQ(failure(400, R"({"errors":[]})"), "transient");
  EXPECT_EQ(failure(400, R"({"status":"BAD_REFRESH_TOKEN"})"), "reauth");
  EXPECT_EQ(failure(400, R"({"status":"BAD"})"), "transient");
  EXPECT_EQ(failure(400, R"({"error":{"code":190}})"), "reauth");
  EXPECT_EQ(failure(400, R"({"error":{"code":"190"}})"), "reauth");
  EXPECT_EQ(failure(400, R"({"error":{"code":[190]}})"), "transient");
  EXPECT_EQ(failure(400, R"({"error":"invalid_grant"})"), "too_early");
  EXPECT_EQ(failure(400, R"({"a/b":{"m~n":{}}})"), "rate_limited");
  EXPECT_EQ(failure(400, R"({"a/b":{}})"), "transient");
  EXPECT_EQ(failure(418, "<html>"), "rate_limited");
  EXPECT_EQ(failure(200, R"({"status":"BAD_REFRESH_TOKEN"})"), "reauth");
}

TEST(ErrorRuleTest, NoRuleKillsAGrantOnAGuess) {
  const Provider provider = ProviderWith(R"({"error_rules": [
      {"pointer": "/error", "value": "*", "class": "reauth"}, {"status": 401, "class": "reauth"}]})");
  const auto failure = [&provider](int status, std::string_view body) {
    return FailureName(Failed(Answer(status, body), provider).failure);
  };
  EXPECT_EQ(failure(400, R"({"error":"x"})"), "reauth");
  EXPECT_EQ(failure(401, "{}"), "reauth");
  EXPECT_EQ(failure(401, ""), "transient");
  EXPECT_EQ(failure(401, "<html>"), "transient");
  EXPECT_EQ(failure(500, R"({"error":"x"})"), "transient");
  EXPECT_EQ(failure(599, R"({"error":"x"})"), "transient");
  EXPECT_EQ(failure(429, R"({"error":"x"})"), "rate_limited");
  EXPECT_EQ(failure(302, R"({"error":"x"})"), "transient");
}

TEST(ErrorRuleTest, RulesDoNotTouchASuccess) {
  const Provider provider = ProviderWith(R"({"error_rules": [{"pointer": "/access_token", "class": "reauth"}]})");
  EXPECT_EQ(Tokens(Answer(200, R"({"access_token":"a"})"), provider).access_token.view(), "a");
}

TEST(FailureMessageTest, IsScrubbedOfWhatWasSentAndWhatWasAnswered) {
  const Failure failure = Failed(Answer(400, R"({"error":"invalid_grant","refresh_token":"new one",
      "data":[{"access_token":"other one"}],
      "error_description":"fake-sent, new one, other one and c2VjcmV0LXRva2VuLXZhbHVl are\r\nbad"})"));
  EXPECT_EQ(failure.message, "HTTP 400 invalid_grant: [redacted], [redacted], [redacted] and [redacted] are  bad");
}

TEST(FailureMessageTest, TheCodeCannotCarryASecretEither) {
  EXPECT_THAT(Failed(Answer(400, R"({"error":"bad fake-sent"})")).message, Not(HasSubstr("fake-sent")));
  const std::string secret = std::string(60, ' ') + "tail of it";
  HttpResponse response = Answer(400, "{\"error\":\"xx" + secret + "\"}");
  auto result = ReadTokenResponse({}, response, {secret}, kNow);
  EXPECT_EQ(std::get<FailedAnswer>(result).failure.message, "HTTP 400 xx_redacted_");
}

TEST(FailureMessageTest, IsShortAndValidUtf8) {
  const std::string code(1000, 'e');
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "\xC3\xBC ";
  const Failure failure =
      Failed(Answer(400, "{\"error\":\"a " + code + "\",\"error_description\":\"" + text + "\xFF\"}"));
  EXPECT_LE(failure.message.size(), kMaxFailureMessage);
  EXPECT_TRUE(IsUtf8(failure.message));
}

TEST(RetryAfterTest, ReadsSeconds) {
  EXPECT_EQ(ParseRetryAfter("0", kNow), 0);
  EXPECT_EQ(ParseRetryAfter(" 120 ", kNow), 2 * kMinute);
  EXPECT_EQ(ParseRetryAfter("86401", kNow), kDay);
  EXPECT_EQ(ParseRetryAfter("99999999999999999999999999", kNow), kDay);
}

TEST(RetryAfterTest, ReadsTheThreeFormsOfADate) {
  for (const char* date :
       {"Tue, 14 Nov 2023 22:14:20 GMT", "Tuesday, 14-Nov-23 22:14:20 GMT", "Tue Nov 14 22:14:20 2023"}) {
    EXPECT_EQ(ParseRetryAfter(date, kNow), kMinute) << date;
  }
  EXPECT_EQ(ParseRetryAfter("Tue, 14 Nov 2023 22:13:19 GMT", kNow), 0);
  EXPECT_EQ(ParseRetryAfter("Fri, 14 Nov 2053 22:13:20 GMT", kNow), kDay);
}

TEST(RetryAfterTest, IgnoresAllElse) {
  for (const char* value :
       {"", "  ", "-1", "1.5", "+5", "soon", "12 s", "2023-11-14T22:14:20Z", "Tue", "14 Nov 2023"}) {
    EXPECT_EQ(ParseRetryAfter(value, kNow), std::nullopt) << value;
  }
  EXPECT_EQ(ParseRetryAfter(std::string(10000, 'T'), kNow), std::nullopt);
}

// Each would have to be looked for at each place of what is quoted.
TEST(TokenResponseTest, ARefusalFullOfTokensIsNotQuoted) {
  std::string tokens;
  for (int i = 0; i < 257; ++i) tokens += R"(,{"access_token":"fake)" + std::to_string(i) + "\"}";
  const std::string answer = R"({"error":"invalid_grant","error_description":"it was fake7","t":[0)" + tokens + "]}";
  const Failure failure = Failed(Answer(400, answer));
  EXPECT_EQ(failure.failure, FailureClass::kReauth);
  EXPECT_EQ(failure.message, "HTTP 400: the answer holds too many tokens to be quoted");
}

// Whoever has to mend its key or its audience need not sign anybody in anew.
TEST(TokenResponseTest, WithoutAGrantInvalidGrantIsAboutTheClient) {
  const auto read = [](std::string_view options, std::string_view code = "invalid_grant") {
    const std::string body = R"({"error":")" + std::string(code) + R"(","error_description":"bad signature"})";
    return Failed(Answer(400, body), ProviderWith(options)).failure;
  };
  const std::string bearer = R"({"token_endpoint_auth_method": "none",
                                 "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer")";
  EXPECT_EQ(read(R"({"grant_type": "client_credentials"})"), FailureClass::kClientConfig);
  EXPECT_EQ(read(bearer + "}"), FailureClass::kClientConfig);
  EXPECT_EQ(read(bearer + R"(, "assertion_subject": "robot"})"), FailureClass::kClientConfig);
  // About somebody, whose consent may be gone.
  EXPECT_EQ(read(bearer + R"(, "assertion_subject": "${subject}"})"), FailureClass::kReauth);
  EXPECT_EQ(read(bearer + R"(, "assertion_claims": {"sub": "${subject}"}})"), FailureClass::kReauth);
  EXPECT_EQ(read(R"({"refresh_with": "access_token"})"), FailureClass::kReauth);
  // The administrator knows the provider better.
  EXPECT_EQ(read(bearer + R"(, "error_rules": [{"pointer": "/error", "value": "gone", "class": "reauth"}]})", "gone"),
            FailureClass::kReauth);
}

}  // namespace
}  // namespace token_refresh
