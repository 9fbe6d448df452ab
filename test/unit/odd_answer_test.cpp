// What servers, and what stands before them, have been seen to answer: the class of each, and its message.
#include <gtest/gtest.h>

#include <ostream>
#include <string>

#include "token_answers.h"

namespace token_refresh {
namespace {

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

}  // namespace
}  // namespace token_refresh
