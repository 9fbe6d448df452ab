#include "core/token_response.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "core/utf8.h"

namespace token_refresh {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr Micros kNow = 1'700'000'000 * kSecond;  // Tue, 14 Nov 2023 22:13:20 GMT
constexpr char kSent[] = "fake-sent";

HttpResponse Answer(int status, std::string_view body, std::string_view content_type = "application/json") {
  HttpResponse response;
  response.status = status;
  response.body = Secret(body);
  response.content_type = content_type;
  return response;
}

std::variant<TokenSet, FailedAnswer> Read(const HttpResponse& response, const Provider& provider = {}) {
  return ReadTokenResponse(provider, response, {kSent}, kNow);
}

TokenSet Tokens(const HttpResponse& response, const Provider& provider = {}) {
  auto result = Read(response, provider);
  if (auto* failed = std::get_if<FailedAnswer>(&result)) {
    ADD_FAILURE() << failed->failure.message;
    return {};
  }
  return std::get<TokenSet>(std::move(result));
}

TokenSet Tokens(std::string_view body) { return Tokens(Answer(200, body)); }

FailedAnswer Refused(const HttpResponse& response, const Provider& provider = {}) {
  auto result = Read(response, provider);
  if (std::holds_alternative<TokenSet>(result)) {
    ADD_FAILURE() << "taken as a success";
    return {{FailureClass::kSuperseded, "", {}}, {}, {}, false};
  }
  return std::get<FailedAnswer>(std::move(result));
}

FailedAnswer Refused(std::string_view body) { return Refused(Answer(200, body)); }

Failure Failed(const HttpResponse& response, const Provider& provider = {}) {
  return Refused(response, provider).failure;
}

Provider ProviderWith(std::string_view options) {
  Provider provider;
  auto parsed = ParseProviderOptions(options, false);
  if (parsed) {
    provider.options = *std::move(parsed);
  } else {
    ADD_FAILURE() << parsed.error().message;
  }
  return provider;
}

TEST(TokenResponseTest, ReadsAnOrdinaryAnswer) {
  const TokenSet tokens = Tokens(
      R"({"access_token":"fake-a","token_type":"bearer","expires_in":3600,"refresh_token":"fake-r","scope":"a b"})");
  EXPECT_EQ(tokens.access_token.view(), "fake-a");
  EXPECT_EQ(tokens.refresh_token.view(), "fake-r");
  EXPECT_EQ(tokens.token_type, "Bearer");
  EXPECT_EQ(tokens.scope, "a b");
  EXPECT_EQ(tokens.expires_in, kHour);
  EXPECT_FALSE(tokens.refresh_expires_in.has_value());
  EXPECT_FALSE(tokens.refresh_in.has_value());
  EXPECT_TRUE(tokens.warnings.empty());
}

TEST(TokenResponseTest, TheLeastThatIsASuccess) {
  const TokenSet tokens = Tokens(Answer(201, R"({"access_token":"fake-a"})", ""));
  EXPECT_EQ(tokens.access_token.view(), "fake-a");
  EXPECT_TRUE(tokens.refresh_token.empty());
  EXPECT_EQ(tokens.token_type, "Bearer");
  EXPECT_EQ(tokens.scope, "");
  EXPECT_FALSE(tokens.expires_in.has_value());
  EXPECT_TRUE(tokens.warnings.empty());
}

TEST(TokenResponseTest, EachStatusOfSuccessIsOne) {
  for (const int status : {200, 201, 202, 203, 206, 207, 226, 299}) {
    EXPECT_EQ(Tokens(Answer(status, R"({"access_token":"fake-a"})")).access_token.view(), "fake-a") << status;
  }
  for (const int status : {0, 100, 199, 300, 400, 500, 999}) {
    const FailedAnswer failed = Refused(Answer(status, R"({"access_token":"fake-a","refresh_token":"fake-r"})"));
    EXPECT_TRUE(failed.refresh_token.empty()) << status;
    EXPECT_FALSE(failed.unread_success) << status;
  }
}

TEST(TokenResponseTest, TheBodyDecidesNotTheContentType) {
  EXPECT_EQ(Tokens(Answer(200, "\xEF\xBB\xBF \n{\"access_token\":\"fake-a\"}\n", "text/html")).access_token.view(),
            "fake-a");
  const TokenSet form =
      Tokens(Answer(200, "access_token=fake%2Ba&expires_in=28800&refresh_token=fake-r&scope=&token_type=bearer\n", ""));
  EXPECT_EQ(form.access_token.view(), "fake+a");
  EXPECT_EQ(form.refresh_token.view(), "fake-r");
  EXPECT_EQ(form.expires_in, 8 * kHour);
  EXPECT_EQ(form.token_type, "Bearer");
  EXPECT_TRUE(form.warnings.empty());
}

TEST(TokenResponseTest, ReadsExpiresWhereExpiresInIsMissing) {
  EXPECT_EQ(Tokens(Answer(200, "access_token=fake-a&expires=5183999", "text/plain")).expires_in, 5183999 * kSecond);
  EXPECT_EQ(Tokens(R"({"access_token":"a","expires":60,"expires_in":70})").expires_in, 70 * kSecond);
  const TokenSet absolute = Tokens(R"({"access_token":"a","expires":1700003600})");
  EXPECT_FALSE(absolute.expires_in.has_value());
  EXPECT_THAT(absolute.warnings, testing::ElementsAre("expires is too large for a lifetime; ignored"));
}

TEST(TokenResponseTest, ATextInAnotherEncodingDoesNotCostTheTokens) {
  const TokenSet tokens = Tokens("{\"access_token\":\"fake-a\",\"name\":\"J\xFCrgen\",\"refresh_token\":\"fake-r\"}");
  EXPECT_EQ(tokens.access_token.view(), "fake-a");
  EXPECT_EQ(tokens.refresh_token.view(), "fake-r");
}

TEST(TokenResponseTest, ASmallFlawDoesNotCostTheTokens) {
  const std::string tokens = R"("access_token":"fake-a","refresh_token":"fake-r")";
  for (const std::string& body :
       {"{\"x\":NaN," + tokens + "}", "{\"x\":[1e999,-Infinity]," + tokens + "}", "{\"x\":\"\\udc00\"," + tokens + "}",
        "{\"x\":\"two\nlines\"," + tokens + "}", "{" + tokens + ",}", "{" + tokens + "}\n<!-- served -->",
        ")]}'\n{" + tokens + "}", ")]}',{" + tokens + "}", "\xEF\xBB\xBF)]}'\n{" + tokens + "}",
        "{\"refresh_token\":\"\"," + tokens + ",\"access_token\":null}"}) {
    const TokenSet read = Tokens(body);
    EXPECT_EQ(read.access_token.view(), "fake-a") << body;
    EXPECT_EQ(read.refresh_token.view(), "fake-r") << body;
    EXPECT_TRUE(read.warnings.empty()) << body;
  }
  const TokenSet unknown = Tokens("{" + tokens + ",\"expires_in\":1e999}");
  EXPECT_FALSE(unknown.expires_in.has_value());
  EXPECT_EQ(unknown.warnings.size(), 1u);
}

TEST(TokenResponseTest, AFlawInsideATokenMakesItUnusable) {
  for (const char* flaw : {"\\ud800", "\xFF", "\n", "\\x41", "\\u0000"}) {
    const std::string token = "\"fake-" + std::string(flaw) + "\"";
    const FailedAnswer failed = Refused("{\"access_token\":" + token + ",\"refresh_token\":\"fake-r\"}");
    EXPECT_EQ(failed.refresh_token.view(), "fake-r") << flaw;
    const TokenSet tokens = Tokens("{\"access_token\":\"fake-a\",\"refresh_token\":" + token + "}");
    EXPECT_TRUE(tokens.refresh_token.empty()) << flaw;
    EXPECT_EQ(tokens.warnings.size(), 1u) << flaw;
  }
}

TEST(TokenResponseTest, OfADamagedAnswerBothTokensCountOrTheRefreshTokenAlone) {
  const TokenSet both = Tokens(R"({"access_token":"fake-a","refresh_token":"fake-r","sco)");
  EXPECT_EQ(both.access_token.view(), "fake-a");
  EXPECT_EQ(both.refresh_token.view(), "fake-r");
  EXPECT_THAT(both.warnings, testing::ElementsAre("the answer is damaged JSON; what can be read counts"));

  const FailedAnswer alone = Refused(R"({"refresh_token":"fake-r","access_token":"fake)");
  EXPECT_EQ(alone.refresh_token.view(), "fake-r");
  EXPECT_EQ(alone.failure.message, "HTTP 200: the answer is damaged JSON; its refresh token is kept");
  EXPECT_FALSE(alone.unread_success);

  // The refresh token may stand in what is missing.
  const std::string cut = R"({"access_token":"fake-a","refresh_tok)";
  EXPECT_TRUE(Refused(cut).unread_success);
  EXPECT_EQ(Tokens(Answer(200, cut), ProviderWith(R"({"keep_refresh_token": true})")).access_token.view(), "fake-a");
}

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

struct ExpiryCase {
  const char* name;
  const char* value;
  std::optional<Micros> expected;
  bool warned;
};

void PrintTo(const ExpiryCase& row, std::ostream* out) { *out << row.name; }

class ExpiresInTest : public testing::TestWithParam<ExpiryCase> {};

TEST_P(ExpiresInTest, IsReadTolerantly) {
  const std::string value = GetParam().value;
  const TokenSet tokens = Tokens("{\"access_token\":\"a\",\"refresh_token\":\"r\",\"expires_in\":" + value + "}");
  EXPECT_EQ(tokens.expires_in, GetParam().expected);
  EXPECT_EQ(tokens.warnings.size(), GetParam().warned ? 1u : 0u);
  EXPECT_EQ(tokens.refresh_token.view(), "r");
}

INSTANTIATE_TEST_SUITE_P(
    Values, ExpiresInTest,
    testing::Values(
        ExpiryCase{"integer", "3600", kHour, false}, ExpiryCase{"fraction", "3600.12", kHour, false},
        ExpiryCase{"text", "\"3600\"", kHour, false}, ExpiryCase{"text_fraction", "\"3600.12\"", kHour, false},
        ExpiryCase{"text_blanks", "\" 3600 \"", kHour, false}, ExpiryCase{"one", "1", kSecond, false},
        ExpiryCase{"below_one", "0.5", std::nullopt, true}, ExpiryCase{"null", "null", std::nullopt, true},
        ExpiryCase{"zero", "0", std::nullopt, true}, ExpiryCase{"negative", "-1", std::nullopt, true},
        ExpiryCase{"negative_text", "\"-3600\"", std::nullopt, true},
        ExpiryCase{"bool_false", "false", std::nullopt, true}, ExpiryCase{"bool_true", "true", std::nullopt, true},
        ExpiryCase{"object", "{}", std::nullopt, true}, ExpiryCase{"array", "[3600]", std::nullopt, true},
        ExpiryCase{"word", "\"zzz\"", std::nullopt, true}, ExpiryCase{"trailing_word", "\"3600s\"", std::nullopt, true},
        ExpiryCase{"empty_text", "\"\"", std::nullopt, true}, ExpiryCase{"nan", "\"NaN\"", std::nullopt, true},
        ExpiryCase{"inf", "\"inf\"", std::nullopt, true}, ExpiryCase{"ten_years", "315360000", kMaxLifetime, false},
        ExpiryCase{"beyond_int32", "4294967296", kMaxLifetime, true},
        ExpiryCase{"beyond_int64", "18446744073709551615", kMaxLifetime, true},
        ExpiryCase{"least_int64", "-9223372036854775808", std::nullopt, true},
        ExpiryCase{"huge", "1e300", kMaxLifetime, true}),
    [](const auto& info) { return info.param.name; });

TEST(TokenResponseTest, ReadsTheRefreshTokensDeadlineUnderEachName) {
  for (const std::string key : {"refresh_token_expires_in", "x_refresh_token_expires_in", "refresh_expires_in"}) {
    EXPECT_EQ(Tokens("{\"access_token\":\"a\",\"" + key + "\":\"8640000\"}").refresh_expires_in, 100 * kDay) << key;
    const TokenSet never = Tokens("{\"access_token\":\"a\",\"" + key + "\":0}");
    EXPECT_FALSE(never.refresh_expires_in.has_value());
    EXPECT_TRUE(never.warnings.empty());
    EXPECT_EQ(Tokens("{\"access_token\":\"a\",\"" + key + "\":\"soon\"}").warnings.size(), 1u);
  }
}

TEST(TokenResponseTest, ReadsTheHintWhenToRefresh) {
  EXPECT_EQ(Tokens(R"({"access_token":"a","refresh_in":43200})").refresh_in, 12 * kHour);
}

TEST(TokenResponseTest, NormalisesTheTokenType) {
  const auto type = [](const std::string& json) {
    const TokenSet tokens = Tokens("{\"access_token\":\"a\",\"token_type\":" + json + "}");
    return tokens.token_type + (tokens.warnings.empty() ? "" : " (warned)");
  };
  for (const char* bearer : {"\"bearer\"", "\"BEARER\"", "\"Bearer\"", "\"BearerToken\"", "\"\"", "null"}) {
    EXPECT_EQ(type(bearer), "Bearer") << bearer;
  }
  EXPECT_EQ(type("\"DPoP\""), "DPoP");
  EXPECT_EQ(type("7"), "Bearer (warned)");
  EXPECT_EQ(type("\"a\\nb\""), "Bearer (warned)");
  EXPECT_EQ(type("\"" + std::string(64, 'x') + "\""), std::string(64, 'x'));
  EXPECT_EQ(type("\"" + std::string(65, 'x') + "\""), "Bearer (warned)");
}

TEST(TokenResponseTest, ReadsScopeAsTextOrList) {
  const auto scope = [](const std::string& json) {
    const TokenSet tokens = Tokens("{\"access_token\":\"a\",\"scope\":" + json + "}");
    return tokens.scope + (tokens.warnings.empty() ? "" : "(warned)");
  };
  EXPECT_EQ(scope("\"a b\""), "a b");
  EXPECT_EQ(scope("[\"a\",\"b\"]"), "a b");
  EXPECT_EQ(scope("[]"), "");
  EXPECT_EQ(scope("null"), "");
  EXPECT_EQ(scope("7"), "(warned)");
  EXPECT_EQ(scope("[\"a\",7]"), "(warned)");
  EXPECT_EQ(scope("{\"a\":1}"), "(warned)");
  EXPECT_EQ(scope("\"a\\u0000b\""), "(warned)");
}

TEST(TokenResponseTest, ARefreshTokenThatIsNoneLeavesTheStoredOne) {
  const auto refresh = [](const std::string& json) {
    const TokenSet tokens = Tokens("{\"access_token\":\"a\",\"refresh_token\":" + json + "}");
    return std::string(tokens.refresh_token.view()) + (tokens.warnings.empty() ? "" : "(warned)");
  };
  EXPECT_EQ(refresh("\"\""), "");
  EXPECT_EQ(refresh("null"), "");
  EXPECT_EQ(refresh("7"), "(warned)");
  EXPECT_EQ(refresh("{}"), "(warned)");
  EXPECT_EQ(refresh("\"a\\u0000b\""), "(warned)");
  EXPECT_EQ(refresh("\"a\\nb\""), "(warned)");
  EXPECT_EQ(refresh("\"a\xFF\""), "(warned)");
  EXPECT_EQ(refresh("\"new\""), "new");
}

TEST(TokenResponseTest, KeepRefreshTokenIgnoresTheOneInTheAnswer) {
  const Provider provider = ProviderWith(R"({"keep_refresh_token": true})");
  EXPECT_TRUE(Tokens(Answer(200, R"({"access_token":"a","refresh_token":"r"})"), provider).refresh_token.empty());
}

TEST(TokenResponseTest, ATokenBesideAnErrorCounts) {
  for (const char* extra : {R"("error":"invalid_grant")", R"("ok":false)"}) {
    const TokenSet tokens = Tokens("{\"access_token\":\"fake-a\"," + std::string(extra) + "}");
    EXPECT_EQ(tokens.access_token.view(), "fake-a");
    EXPECT_EQ(tokens.warnings.size(), 1u);
  }
}

TEST(TokenResponseTest, NoWarningHoldsAToken) {
  const TokenSet tokens =
      Tokens(R"({"access_token":"fake-a","refresh_token":["fake-r"],"expires_in":"fake-e","scope":{"fake-s":1}})");
  EXPECT_EQ(tokens.warnings.size(), 3u);
  for (const std::string& warning : tokens.warnings) EXPECT_THAT(warning, Not(HasSubstr("fake")));
}

struct FailureCase {
  const char* name;
  int status;
  const char* content_type;
  std::string body;
  FailureClass expected;
  const char* message;
};

void PrintTo(const FailureCase& row, std::ostream* out) { *out << row.name; }

class OddAnswerTest : public testing::TestWithParam<FailureCase> {};

TEST_P(OddAnswerTest, IsUnderstood) {
  const FailureCase& row = GetParam();
  const Failure failure = Failed(Answer(row.status, row.body, row.content_type));
  EXPECT_EQ(FailureName(failure.failure), FailureName(row.expected));
  EXPECT_EQ(failure.message, row.message);
  EXPECT_FALSE(failure.retry_after_us.has_value());
}

constexpr auto kTransient = FailureClass::kTransient;
constexpr auto kRateLimited = FailureClass::kRateLimited;
constexpr auto kReauth = FailureClass::kReauth;
constexpr auto kClientConfig = FailureClass::kClientConfig;
constexpr auto kTooEarly = FailureClass::kTooEarly;
constexpr char kJson[] = "application/json";
constexpr char kHtml[] = "text/html";

INSTANTIATE_TEST_SUITE_P(
    Refusals, OddAnswerTest,
    testing::Values(
        FailureCase{"invalid_grant", 400, kJson, R"({"error":"invalid_grant","error_description":"Token revoked"})",
                    kReauth, "HTTP 400 invalid_grant: Token revoked"},
        FailureCase{"invalid_grant_alone", 401, "", R"({"error":"invalid_grant"})", kReauth, "HTTP 401 invalid_grant"},
        FailureCase{"invalid_grant_as_form", 400, kHtml, "error=invalid_grant&error_description=Token+revoked", kReauth,
                    "HTTP 400 invalid_grant: Token revoked"},
        FailureCase{"other_case_is_no_proof", 400, kJson, R"({"error":"Invalid_Grant"})", kTransient,
                    "HTTP 400 Invalid_Grant"},
        FailureCase{"salesforce_busy", 400, kJson,
                    R"({"error":"invalid_grant","error_description":"token request is already being processed"})",
                    kTransient, "HTTP 400 invalid_grant: token request is already being processed"},
        FailureCase{"microsoft_loop", 400, kJson,
                    R"({"error":"invalid_grant","error_description":"AADSTS50196: a request loop was found"})",
                    kRateLimited, "HTTP 400 invalid_grant: AADSTS50196: a request loop was found"},
        FailureCase{"exact_too_early", 400, kJson,
                    R"({"error":"access_denied","error_description":"Rate limit: access_token Not Expired"})",
                    kTooEarly, "HTTP 400 access_denied: Rate limit: access_token Not Expired"},
        FailureCase{"access_denied", 400, kJson, R"({"error":"access_denied"})", kTransient, "HTTP 400 access_denied"},
        FailureCase{"invalid_client", 401, kJson, R"({"error":"invalid_client"})", kClientConfig,
                    "HTTP 401 invalid_client"},
        FailureCase{"unauthorized_client", 403, kJson, R"({"error":"unauthorized_client"})", kClientConfig,
                    "HTTP 403 unauthorized_client"},
        FailureCase{"unsupported_grant_type", 400, kJson, R"({"error":"unsupported_grant_type"})", kClientConfig,
                    "HTTP 400 unsupported_grant_type"},
        FailureCase{"invalid_scope", 400, kJson, R"({"error":"invalid_scope"})", kClientConfig,
                    "HTTP 400 invalid_scope"},
        FailureCase{"invalid_request", 400, kJson, R"({"error":"invalid_request"})", kClientConfig,
                    "HTTP 400 invalid_request"},
        FailureCase{"slow_down", 400, kJson, R"({"error":"slow_down"})", kRateLimited, "HTTP 400 slow_down"},
        FailureCase{"temporarily_unavailable", 400, kJson, R"({"error":"temporarily_unavailable"})", kTransient,
                    "HTTP 400 temporarily_unavailable"},
        FailureCase{"server_error", 400, kJson, R"({"error":"server_error"})", kTransient, "HTTP 400 server_error"},
        FailureCase{"unknown_code", 400, kJson, R"({"error":"gone_fishing"})", kTransient, "HTTP 400 gone_fishing"},
        FailureCase{"github", 200, kJson,
                    R"({"error":"bad_refresh_token","error_description":"The refresh token is incorrect or expired."})",
                    kReauth, "HTTP 200 bad_refresh_token: The refresh token is incorrect or expired."},
        FailureCase{"github_form", 200, "", "error=bad_refresh_token", kReauth, "HTTP 200 bad_refresh_token"},
        FailureCase{"slack_dead", 200, kJson, R"({"ok":false,"error":"invalid_refresh_token"})", kReauth,
                    "HTTP 200 invalid_refresh_token"},
        FailureCase{"slack_revoked", 200, kJson, R"({"ok":false,"error":"token_revoked"})", kReauth,
                    "HTTP 200 token_revoked"},
        FailureCase{"slack_expired", 200, kJson, R"({"ok":false,"error":"token_expired"})", kReauth,
                    "HTTP 200 token_expired"},
        FailureCase{"slack_throttle", 200, kJson, R"({"ok":false,"error":"ratelimited"})", kRateLimited,
                    "HTTP 200 ratelimited"},
        FailureCase{"slack_code_elsewhere", 400, kJson, R"({"error":"token_expired"})", kTransient,
                    "HTTP 400 token_expired"},
        FailureCase{"slack_silent", 200, kJson, R"({"ok":false})", kTransient,
                    "HTTP 200: the answer holds no access token"},
        FailureCase{"zoho_throttle", 200, kJson,
                    R"({"error":"Access Denied","error_description":"Too many requests","status":"failure"})",
                    kTransient, "HTTP 200 Access_Denied: Too many requests"},
        FailureCase{"error_object", 400, kJson, R"({"error":{"message":"bad","code":190,"type":"OAuthException"}})",
                    kTransient, "HTTP 400: bad"},
        FailureCase{"error_object_type", 400, kJson, R"({"error":{"type":"invalid_grant"}})", kTransient,
                    "HTTP 400: invalid_grant"},
        FailureCase{"error_number", 400, kJson, R"({"error":7})", kTransient,
                    "HTTP 400: not an answer that a token endpoint gives"},
        FailureCase{"fitbit_without_rule", 400, kJson, R"({"errors":[{"errorType":"invalid_grant"}]})", kTransient,
                    "HTTP 400: not an answer that a token endpoint gives"},
        FailureCase{"hubspot_without_rule", 400, kJson, R"({"status":"BAD_REFRESH_TOKEN","message":"missing"})",
                    kTransient, "HTTP 400: missing"},
        FailureCase{"server_error_says_dead", 500, kJson, R"({"error":"invalid_grant"})", kTransient,
                    "HTTP 500 invalid_grant"},
        FailureCase{"unavailable_says_dead", 503, kJson, R"({"error":"invalid_grant"})", kTransient,
                    "HTTP 503 invalid_grant"},
        FailureCase{"throttle_says_dead", 429, kJson, R"({"error":"invalid_grant"})", kRateLimited,
                    "HTTP 429 invalid_grant"},
        FailureCase{"throttle_empty", 429, "", "", kRateLimited, "HTTP 429: the answer is empty"},
        FailureCase{"html_200", 200, kHtml, "<html>invalid_grant</html>", kTransient,
                    "HTTP 200: the answer is a page of HTML or XML"},
        FailureCase{"html_403", 403, kJson, " \n<!DOCTYPE html>", kTransient,
                    "HTTP 403: the answer is a page of HTML or XML"},
        FailureCase{"html_502", 502, kHtml, "<html>", kTransient, "HTTP 502: the answer is a page of HTML or XML"},
        FailureCase{"empty_400", 400, kJson, "", kTransient, "HTTP 400: the answer is empty"},
        FailureCase{"empty_401", 401, "", "", kTransient, "HTTP 401: the answer is empty"},
        FailureCase{"blank_200", 200, kJson, " \r\n", kTransient, "HTTP 200: the answer is empty"},
        FailureCase{"words", 400, "text/plain", "invalid_grant", kTransient,
                    "HTTP 400: the answer is neither a JSON object nor form-encoded"},
        FailureCase{"prose_with_equals", 400, "text/plain", "error=invalid_grant because of x=y", kTransient,
                    "HTTP 400: the answer is neither a JSON object nor form-encoded"},
        FailureCase{"json_text", 400, kJson, "\"invalid_grant\"", kTransient,
                    "HTTP 400: the answer is neither a JSON object nor form-encoded"},
        FailureCase{"json_array", 200, kJson, R"([{"access_token":"a"}])", kTransient,
                    "HTTP 200: the answer is neither a JSON object nor form-encoded"},
        FailureCase{"json_cut", 200, kJson, R"({"access_token":"fake-a")", kTransient,
                    "HTTP 200: the answer is damaged JSON"},
        FailureCase{"json_cut_early", 200, kJson, R"({"access_token":"fake-a)", kTransient,
                    "HTTP 200: the answer is neither a JSON object nor form-encoded"},
        FailureCase{"json_cut_says_dead", 400, kJson, R"({"error":"invalid_grant",)", kTransient,
                    "HTTP 400: the answer is damaged JSON"},
        FailureCase{"json_nan", 200, kJson, R"({"access_token":NaN})", kTransient,
                    "HTTP 200: the answer holds no access token"},
        FailureCase{"mended_says_dead", 400, kJson, "{\"error\":\"invalid_grant\",\"at\":NaN,\"who\":\"\\ud800\",};",
                    kReauth, "HTTP 400 invalid_grant"},
        FailureCase{"words_before_json", 400, kJson, R"(Error: {"error":"invalid_grant"})", kTransient,
                    "HTTP 400: the answer is neither a JSON object nor form-encoded"},
        FailureCase{"no_token", 200, kJson, "{}", kTransient, "HTTP 200: the answer holds no access token"},
        FailureCase{"null_token", 200, kJson, R"({"access_token":null})", kTransient,
                    "HTTP 200: the answer holds no access token"},
        FailureCase{"refresh_token_alone", 200, kJson, R"({"refresh_token":"fake-r"})", kTransient,
                    "HTTP 200: the answer holds no access token; its refresh token is kept"},
        FailureCase{"token_number", 200, kJson, R"({"access_token":7})", kTransient,
                    "HTTP 200: the access token in the answer is not text"},
        FailureCase{"token_empty", 200, kJson, R"({"access_token":""})", kTransient,
                    "HTTP 200: the access token in the answer is empty"},
        FailureCase{"token_nul", 200, kJson, R"({"access_token":"a\u0000b"})", kTransient,
                    "HTTP 200: the access token in the answer holds control characters or invalid UTF-8"},
        FailureCase{"token_newline_in_form", 200, "", "access_token=a%0Ab", kTransient,
                    "HTTP 200: the access token in the answer holds control characters or invalid UTF-8"},
        FailureCase{"token_not_utf8", 200, kJson, "{\"access_token\":\"a\xFF\"}", kTransient,
                    "HTTP 200: the access token in the answer holds control characters or invalid UTF-8"},
        FailureCase{"empty_204", 204, "", "", kTransient, "HTTP 204: the answer is empty"},
        FailureCase{"token_at_400", 400, kJson, R"({"access_token":"fake-a"})", kTransient,
                    "HTTP 400: not an answer that a token endpoint gives"},
        FailureCase{"redirect", 302, kJson, R"({"access_token":"fake-a"})", kTransient, "HTTP 302: redirect refused"},
        FailureCase{"redirect_says_dead", 307, kJson, R"({"error":"invalid_grant"})", kTransient,
                    "HTTP 307: redirect refused"},
        FailureCase{"status_zero", 0, kJson, R"({"error":"invalid_grant"})", kTransient, "HTTP 0 invalid_grant"},
        FailureCase{"too_deep", 200, kJson, "{\"a\":" + std::string(40, '[') + std::string(40, ']') + "}", kTransient,
                    "HTTP 200: the answer is nested too deep"},
        FailureCase{"far_too_deep", 400, kJson, "{\"error\":\"invalid_grant\",\"a\":" + std::string(500000, '['),
                    kTransient, "HTTP 400: the answer is nested too deep"},
        FailureCase{"too_large", 200, kJson, "{\"access_token\":\"" + std::string(kMaxResponseBytes, 'a') + "\"}",
                    kTransient, "HTTP 200: the answer is too large"}),
    [](const auto& info) { return info.param.name; });

TEST(TokenResponseTest, BracketsInsideTextAreNoNesting) {
  EXPECT_EQ(Tokens("{\"x\":\"\\\"" + std::string(100, '[') + "\",\"access_token\":\"a\"}").access_token.view(), "a");
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

// The same mutations in each run: nothing may throw, crash, or be called dead
// because a bit fell over.
TEST(TokenResponseTest, SurvivesDamage) {
  const std::string whole =
      R"({"access_token":"fake-a","expires_in":"3600","refresh_token":"fake-r","x":[{"y":1.5e3}],"scope":["a"]})";
  uint64_t state = 88172645463325252u;
  const auto next = [&state] {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
  };
  for (int round = 0; round < 20000; ++round) {
    std::string damaged = whole.substr(0, next() % 4 == 0 ? next() % whole.size() : whole.size());
    for (uint64_t changes = next() % 4; changes > 0 && !damaged.empty(); --changes) {
      damaged[next() % damaged.size()] = static_cast<char>(next());
    }
    const auto result = Read(Answer(next() % 2 == 0 ? 200 : 400, damaged));
    if (const auto* failed = std::get_if<FailedAnswer>(&result)) {
      ASSERT_EQ(failed->failure.failure, FailureClass::kTransient) << round;
      ASSERT_LE(failed->failure.message.size(), kMaxFailureMessage);
      ASSERT_TRUE(IsCleanText(failed->refresh_token.view())) << round;
    } else {
      ASSERT_TRUE(IsCleanText(std::get<TokenSet>(result).access_token.view())) << round;
    }
  }
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
