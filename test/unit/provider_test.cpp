#include "core/provider.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "core/curl_transport.h"

namespace token_refresh {
namespace {

using testing::HasSubstr;
using testing::Not;

ProviderOptions Parsed(std::string_view json) {
  Result<ProviderOptions> options = ParseProviderOptions(json, false);
  if (!options) {
    ADD_FAILURE() << json << ": " << options.error().message;
    return {};
  }
  return *std::move(options);
}

Error Refused(std::string_view json, bool insecure_http_allowed = false) {
  const Result<ProviderOptions> options = ParseProviderOptions(json, insecure_http_allowed);
  if (options) {
    ADD_FAILURE() << json << " was accepted";
    return {};
  }
  EXPECT_EQ(options.error().code, ErrorCode::kInvalidArgument);
  return options.error();
}

TEST(ProviderOptionsTest, AnEmptyObjectGivesTheDefaults) {
  const ProviderOptions options = Parsed("{}");
  EXPECT_EQ(options.auth_method, ClientAuthMethod::kClientSecretBasic);
  EXPECT_EQ(options.basic_encoding, BasicEncoding::kRfc6749);
  EXPECT_TRUE(options.enabled);
  EXPECT_FALSE(options.allow_insecure_http);
  EXPECT_FALSE(options.keep_refresh_token);
  EXPECT_FALSE(options.timing.refresh_margin.has_value());
  EXPECT_EQ(options.timing.min_interval, 0);
}

TEST(ProviderOptionsTest, ReadsEveryOption) {
  const ProviderOptions options = Parsed(R"({
    "preset": "anything", "token_endpoint": "https://a.example/t?x=1", "refresh_endpoint": "https://a.example/r",
    "revocation_endpoint": "https://a.example/v", "introspection_endpoint": "https://a.example/i",
    "authorization_endpoint": "https://a.example/a", "userinfo_endpoint": "https://a.example/u",
    "issuer": "https://a.example", "jwks_uri": "https://a.example:8443/jwks",
    "token_endpoint_auth_method": "client_secret_basic", "basic_encoding": "raw", "scope": "read write",
    "request_params": {"audience": "x", "scope": null}, "request_headers": {"X-Tenant": "7"},
    "error_rules": [{"status": 400, "pointer": "/errors/0/errorType", "value": "invalid_*", "class": "reauth"},
                    {"status": 503, "class": "rate_limited"}],
    "authorization_response_iss_parameter_supported": true,
    "keep_refresh_token": true, "refresh_margin": 60000000, "default_expires_in": 3600000000, "keep_alive": 1,
    "min_interval": 0, "replay_window": 30000000, "connect_timeout": 1, "timeout": 600000000,
    "max_attempt_delay": 315360000000000, "max_in_flight": 10000, "ca_file": "/etc/ca.pem",
    "allow_insecure_http": true, "enabled": false})");
  EXPECT_EQ(options.token_endpoint, "https://a.example/t?x=1");
  EXPECT_EQ(options.refresh_endpoint, "https://a.example/r");
  EXPECT_EQ(options.revocation_endpoint, "https://a.example/v");
  EXPECT_EQ(options.introspection_endpoint, "https://a.example/i");
  EXPECT_EQ(options.authorization_endpoint, "https://a.example/a");
  EXPECT_EQ(options.userinfo_endpoint, "https://a.example/u");
  EXPECT_EQ(options.issuer, "https://a.example");
  EXPECT_EQ(options.jwks_uri, "https://a.example:8443/jwks");
  EXPECT_EQ(options.auth_method, ClientAuthMethod::kClientSecretBasic);
  EXPECT_EQ(options.basic_encoding, BasicEncoding::kRaw);
  EXPECT_EQ(options.scope, "read write");
  EXPECT_EQ(options.request_params.at("audience"), "x");
  EXPECT_EQ(options.request_params.at("scope"), std::nullopt);
  EXPECT_EQ(options.request_headers.at("X-Tenant"), "7");
  ASSERT_EQ(options.error_rules.size(), 2u);
  EXPECT_EQ(options.error_rules[0].status, 400);
  EXPECT_EQ(options.error_rules[0].pointer, "/errors/0/errorType");
  EXPECT_EQ(options.error_rules[0].value, "invalid_*");
  EXPECT_EQ(options.error_rules[0].failure, FailureClass::kReauth);
  EXPECT_EQ(options.error_rules[1].pointer, "");
  EXPECT_EQ(options.error_rules[1].value, std::nullopt);
  EXPECT_EQ(options.error_rules[1].failure, FailureClass::kRateLimited);
  EXPECT_TRUE(options.keep_refresh_token);
  EXPECT_TRUE(options.sign_in_brings_iss);
  EXPECT_EQ(options.timing.refresh_margin, kMinute);
  EXPECT_EQ(options.timing.default_expires_in, kHour);
  EXPECT_EQ(options.timing.keep_alive, 1);
  EXPECT_EQ(options.timing.min_interval, 0);
  EXPECT_EQ(options.replay_window, 30 * kSecond);
  EXPECT_EQ(options.connect_timeout, 1);
  EXPECT_EQ(options.timeout, 10 * kMinute);
  EXPECT_EQ(options.max_attempt_delay, 3650 * kDay);
  EXPECT_EQ(options.max_in_flight, 10000);
  EXPECT_EQ(options.ca_file, "/etc/ca.pem");
  EXPECT_TRUE(options.allow_insecure_http);
  EXPECT_FALSE(options.enabled);
}

TEST(ProviderOptionsTest, EverySpecIsUniqueAndRefusesAWrongType) {
  std::set<std::string_view> keys;
  for (const OptionSpec& spec : ProviderOptionSpecs()) {
    EXPECT_TRUE(keys.insert(spec.key).second) << spec.key;
    const std::string key(spec.key);
    const char* wrong = spec.type == OptionType::kBoolean ? "7" : "true";
    EXPECT_THAT(Refused("{\"" + key + "\": " + wrong + "}").message, HasSubstr("option \"" + key + "\" must be"));
    EXPECT_THAT(Refused("{\"" + key + "\": null}").message, HasSubstr(", not null"));
  }
  EXPECT_EQ(keys.size(), 62u);
}

TEST(ProviderOptionsTest, AnUnknownKeyIsNamedAndTheKnownAreListed) {
  const Error error = Refused(R"({"tokenendpoint": "https://a.example"})");
  EXPECT_EQ(error.message, "unknown provider option \"tokenendpoint\"");
  EXPECT_THAT(error.hint,
              testing::StartsWith("Did you mean \"token_endpoint\"? Known options are: preset, token_endpoint, "));
  EXPECT_THAT(error.hint, testing::EndsWith(", allow_insecure_http, enabled."));
}

TEST(ProviderOptionsTest, WhatIsNearNothingIsNotGuessed) {
  EXPECT_THAT(Refused(R"({"colour": "red"})").hint, testing::StartsWith("Known options are: "));
}

TEST(ProviderOptionsTest, AnUnknownKeyIsQuotedSafely) {
  EXPECT_EQ(Refused("{\"a\\nb\": 1}").message, "unknown provider option \"a?b\"");
  const Error error = Refused("{\"" + std::string(100, 'x') + "\": 1}");
  EXPECT_EQ(error.message, "unknown provider option \"" + std::string(64, 'x') + "...\"");
}

TEST(ProviderOptionsTest, RefusesWhatIsNoObject) {
  for (const char* json : {"", "[]", "7", "\"x\"", "null", "{", "{} {}"}) {
    EXPECT_EQ(Refused(json).message, "provider options must be a JSON object") << json;
  }
}

TEST(ProviderOptionsTest, IsBounded) {
  EXPECT_THAT(Refused("{\"scope\": \"" + std::string(64 * 1024, 'x') + "\"}").message, HasSubstr("64 KiB"));
  const std::string deep = "{\"error_rules\": " + std::string(5000, '[') + std::string(5000, ']') + "}";
  EXPECT_THAT(Refused(deep).message, HasSubstr("32 levels"));
}

struct RefusalCase {
  const char* name;
  const char* json;
  const char* message;
};

void PrintTo(const RefusalCase& row, std::ostream* out) { *out << row.name; }

class ProviderRefusalTest : public testing::TestWithParam<RefusalCase> {};

TEST_P(ProviderRefusalTest, SaysWhatIsWrong) { EXPECT_EQ(Refused(GetParam().json).message, GetParam().message); }

INSTANTIATE_TEST_SUITE_P(
    Values, ProviderRefusalTest,
    testing::Values(
        RefusalCase{"iss_of_nobody", R"({"authorization_response_iss_parameter_supported": true})",
                    R"(option "authorization_response_iss_parameter_supported" needs option "issuer")"},
        RefusalCase{"url_type", R"({"issuer": 7})", R"(option "issuer" must be a URL, not a number)"},
        RefusalCase{"interval_type", R"({"timeout": "soon"})", R"(option "timeout" must be an interval, not text)"},
        RefusalCase{"interval_fraction", R"({"timeout": 1.5})",
                    R"(option "timeout" must be an interval, not a number)"},
        RefusalCase{"auth_method", R"({"token_endpoint_auth_method": "magic"})",
                    R"(option "token_endpoint_auth_method" must be "client_secret_basic", "client_secret_post", )"
                    R"("none", "client_secret_jwt", "private_key_jwt", "tls_client_auth" or )"
                    R"("self_signed_tls_client_auth", not "magic")"},
        RefusalCase{"basic_encoding", R"({"basic_encoding": ""})",
                    R"(option "basic_encoding" must be "rfc6749" or "raw", not "")"},
        RefusalCase{"scope_control", R"({"scope": "a\u0000b"})", R"(option "scope" must not hold control characters)"},
        RefusalCase{"timeout_zero", R"({"timeout": 0})", R"(option "timeout" must be positive and at most 10 minutes)"},
        RefusalCase{"timeout_long", R"({"connect_timeout": 600000001})",
                    R"(option "connect_timeout" must be positive and at most 10 minutes)"},
        RefusalCase{"margin_negative", R"({"refresh_margin": -1})",
                    R"(option "refresh_margin" must be positive and at most 10 years)"},
        RefusalCase{"keep_alive_zero", R"({"keep_alive": 0})",
                    R"(option "keep_alive" must be positive and at most 10 years)"},
        RefusalCase{"interval_huge", R"({"default_expires_in": 18446744073709551615})",
                    R"(option "default_expires_in" must be positive and at most 10 years)"},
        RefusalCase{"min_interval_negative", R"({"min_interval": -1})",
                    R"(option "min_interval" must be between 0 and 10 years)"},
        RefusalCase{"in_flight_zero", R"({"max_in_flight": 0})",
                    R"(option "max_in_flight" must be between 1 and 10000)"},
        RefusalCase{"in_flight_many", R"({"max_in_flight": 10001})",
                    R"(option "max_in_flight" must be between 1 and 10000)"},
        RefusalCase{"in_flight_fraction", R"({"max_in_flight": 1.5})",
                    R"(option "max_in_flight" must be a whole number)"},
        RefusalCase{"ca_file_relative", R"({"ca_file": "ca.pem"})", R"(option "ca_file" must be an absolute path)"},
        RefusalCase{"param_type", R"({"request_params": {"a": 7}})",
                    R"(option "request_params" must hold text or null for "a", not a number)"},
        RefusalCase{"param_name", R"({"request_params": {"": "x"}})",
                    R"(option "request_params" holds a parameter without a name)"},
        RefusalCase{"header_null", R"({"request_headers": {"X": null}})",
                    R"(option "request_headers" must hold text for "X", not null)"},
        RefusalCase{"header_name", R"({"request_headers": {"X Y": "z"}})",
                    R"(option "request_headers" holds "X Y", which is not a header name)"},
        RefusalCase{"header_name_injection", R"({"request_headers": {"X\r\nY": "z"}})",
                    R"(option "request_headers" holds "X??Y", which is not a header name)"},
        RefusalCase{"header_injection", R"({"request_headers": {"X": "hush\r\nEvil: yes"}})",
                    R"(option "request_headers" holds control characters in the value of "X")"},
        RefusalCase{"header_nul", R"({"request_headers": {"X": "hush\u0000"}})",
                    R"(option "request_headers" holds control characters in the value of "X")"},
        RefusalCase{"header_twice", R"({"request_headers": {"x-a": "1", "X-A": "2"}})",
                    R"(option "request_headers" holds "x-a" twice)"},
        RefusalCase{"rules_element", R"({"error_rules": ["x"]})",
                    R"(option "error_rules[0]" must be an object, not text)"},
        RefusalCase{"rule_member", R"({"error_rules": [{"status": 400, "class": "reauth"}, {"code": 1}]})",
                    R"(option "error_rules[1]" has an unknown member "code")"},
        RefusalCase{"rule_no_class", R"({"error_rules": [{"status": 400}]})",
                    R"(option "error_rules[0]" has no class)"},
        RefusalCase{"rule_class", R"({"error_rules": [{"status": 400, "class": "superseded"}]})",
                    R"(option "error_rules[0].class" must be "transient", "rate_limited", "reauth", "client_config" )"
                    R"(or "too_early", not "superseded")"},
        RefusalCase{"rule_status_type", R"({"error_rules": [{"status": "400", "class": "reauth"}]})",
                    R"(option "error_rules[0].status" must be a whole number, not text)"},
        RefusalCase{"rule_status", R"({"error_rules": [{"status": 600, "class": "transient"}]})",
                    R"(option "error_rules[0].status" must be between 200 and 599)"},
        RefusalCase{"rule_redirect", R"({"error_rules": [{"status": 302, "class": "transient"}]})",
                    R"(option "error_rules[0].status" must not be 3xx)"},
        RefusalCase{"rule_pointer", R"({"error_rules": [{"pointer": "error", "class": "reauth"}]})",
                    R"(option "error_rules[0].pointer" is not a JSON pointer (RFC 6901))"},
        RefusalCase{"rule_pointer_empty", R"({"error_rules": [{"pointer": "", "class": "reauth"}]})",
                    R"(option "error_rules[0].pointer" is not a JSON pointer (RFC 6901))"},
        RefusalCase{"rule_pointer_escape", R"({"error_rules": [{"pointer": "/a~2", "class": "reauth"}]})",
                    R"(option "error_rules[0].pointer" is not a JSON pointer (RFC 6901))"},
        RefusalCase{"rule_value_type", R"({"error_rules": [{"pointer": "/a", "value": 7, "class": "reauth"}]})",
                    R"(option "error_rules[0].value" must be text, not a number)"},
        RefusalCase{"rule_value_alone", R"({"error_rules": [{"status": 400, "value": "x", "class": "reauth"}]})",
                    R"(option "error_rules[0]" has a value but no pointer)"},
        RefusalCase{"rule_for_all", R"({"error_rules": [{"class": "reauth"}]})",
                    R"(option "error_rules[0]" needs a status or a pointer)"},
        RefusalCase{"rule_500_dead", R"({"error_rules": [{"status": 500, "pointer": "/e", "class": "reauth"}]})",
                    R"(option "error_rules[0]" cannot have class "reauth" with a status of 429 or 5xx)"},
        RefusalCase{"rule_429_dead", R"({"error_rules": [{"status": 429, "class": "reauth"}]})",
                    R"(option "error_rules[0]" cannot have class "reauth" with a status of 429 or 5xx)"}),
    [](const auto& info) { return info.param.name; });

TEST(ProviderOptionsTest, ReservedHeadersAreRefusedInAnyCase) {
  for (const char* name :
       {"Host", "content-length", "AUTHORIZATION", "Content-Type", "Transfer-Encoding", "connection"}) {
    const Error error = Refused("{\"request_headers\": {\"" + std::string(name) + "\": \"hush\"}}");
    EXPECT_EQ(error.message, "option \"request_headers\" must not hold \"" + std::string(name) + "\"");
    EXPECT_THAT(error.hint, HasSubstr("Authorization"));
  }
}

TEST(ProviderUrlTest, AcceptsWhatIsUsable) {
  for (const char* url :
       {"https://a.example", "HTTPS://A.example:8443/x?y=z&a=%20", "https://10.0.0.1/t", "https://[2001:db8::1]/t",
        "http://localhost:8080/t", "http://127.9.9.9/t", "http://[::1]/"}) {
    EXPECT_EQ(Parsed("{\"token_endpoint\": \"" + std::string(url) + "\"}").token_endpoint, url);
  }
}

TEST(ProviderUrlTest, RefusesWhatIsNot) {
  for (const char* url : {"",
                          "a.example/t",
                          "//a.example/t",
                          "https://",
                          "https:///t",
                          "https:/a.example",
                          "https://?x",
                          "ftp://a.example",
                          "file:///etc/passwd",
                          "https://user@a.example",
                          "https://u:hush@a.example/",
                          "https://@a.example/",
                          "https://a.example/#f",
                          "https://a.example/#",
                          "https://a.example/a b",
                          " https://a.example",
                          "https://a.example/\\n",
                          "https://a.example\\t",
                          "https://a.example/\\u0000",
                          "https://a.example/\\\\x",
                          "https://{tenant}.example/t",
                          "https://a.example:99999/",
                          "https://a.example:x/",
                          "https://[::1/t",
                          "https://b\u00fccher.example/"}) {
    const Error error = Refused("{\"issuer\": \"" + std::string(url) + "\"}");
    EXPECT_EQ(error.message, "option \"issuer\" is not a usable http(s) URL") << url;
    EXPECT_THAT(error.hint, Not(HasSubstr("hush")));
  }
}

TEST(ProviderUrlTest, BoundsTheLength) {
  const std::string prefix = "https://a.example/";
  const std::string fits = prefix + std::string(2000 - prefix.size(), 'x');
  EXPECT_EQ(Parsed("{\"issuer\": \"" + fits + "\"}").issuer.size(), 2000u);
  EXPECT_EQ(Refused("{\"issuer\": \"" + fits + "x\"}").message, "option \"issuer\" is not a usable http(s) URL");
}

TEST(ProviderUrlTest, PlainHttpNeedsOptionAndSetting) {
  const std::string url = R"("token_endpoint": "http://as.example/t")";
  const std::string with_option = "{" + url + R"(, "allow_insecure_http": true})";
  const std::string message = "option \"token_endpoint\" uses plain http to a host that is not loopback";
  EXPECT_EQ(Refused("{" + url + "}").message, message);
  EXPECT_EQ(Refused("{" + url + "}", true).message, message);
  const Error error = Refused(with_option);
  EXPECT_EQ(error.message, message);
  EXPECT_THAT(error.hint, HasSubstr("allow_insecure_http"));
  EXPECT_THAT(error.hint, HasSubstr("token_refresh.allow_insecure_http"));
  const Result<ProviderOptions> allowed = ParseProviderOptions(with_option, true);
  ASSERT_TRUE(allowed.ok());
  EXPECT_EQ(allowed->token_endpoint, "http://as.example/t");
}

TEST(ProviderUrlTest, EveryUrlOptionIsHeldToHttps) {
  for (const OptionSpec& spec : ProviderOptionSpecs()) {
    if (spec.type != OptionType::kUrl) continue;
    const std::string key(spec.key);
    EXPECT_EQ(Refused("{\"" + key + "\": \"HTTP://as.example/\"}").message,
              "option \"" + key + "\" uses plain http to a host that is not loopback");
  }
}

TEST(LoopbackUrlTest, KnowsLoopback) {
  for (const char* url : {"http://localhost/", "https://LOCALHOST:1/x", "http://127.0.0.1", "http://127.255.255.254/?q",
                          "http://[::1]:80/", "http://[0:0:0:0:0:0:0:1]/", "http://127.1/", "http://2130706433/"}) {
    EXPECT_TRUE(IsLoopbackUrl(url)) << url;
  }
}

TEST(LoopbackUrlTest, KnowsAllElse) {
  for (const char* url :
       {"", "localhost", "http://localhost.example/", "http://127.0.0.1.example/", "http://128.0.0.1/", "http://[::2]/",
        "http://0.0.0.0/", "http://as.example/localhost", "http://localhost@as.example/", "ftp://localhost/",
        "http://as.example/?http://localhost", "http://[::ffff:127.0.0.1]/", "http://mylocalhost/"}) {
    EXPECT_FALSE(IsLoopbackUrl(url)) << url;
  }
}

ProviderOptions OptionsWith(ClientAuthMethod method) {
  ProviderOptions options;
  options.token_endpoint = "https://a.example/t";
  options.auth_method = method;
  return options;
}

TEST(ProviderClientTest, AcceptsWhatFits) {
  EXPECT_TRUE(CheckProviderClient(OptionsWith(ClientAuthMethod::kClientSecretBasic), true, true).ok());
  EXPECT_TRUE(CheckProviderClient(OptionsWith(ClientAuthMethod::kClientSecretPost), true, true).ok());
  EXPECT_TRUE(CheckProviderClient(OptionsWith(ClientAuthMethod::kNone), true, false).ok());
}

TEST(ProviderClientTest, NamesWhatIsMissingOrTooMuch) {
  const auto message = [](ClientAuthMethod method, bool id, bool secret) {
    const Status status = CheckProviderClient(OptionsWith(method), id, secret);
    return status.ok() ? std::string("accepted") : status.error().message;
  };
  EXPECT_EQ(message(ClientAuthMethod::kClientSecretBasic, false, true),
            R"(client_id is needed with option "token_endpoint_auth_method" set to "client_secret_basic")");
  EXPECT_EQ(message(ClientAuthMethod::kClientSecretPost, true, false),
            R"(client_secret is needed with option "token_endpoint_auth_method" set to "client_secret_post")");
  EXPECT_EQ(message(ClientAuthMethod::kNone, false, false),
            R"(client_id is needed with option "token_endpoint_auth_method" set to "none")");
  EXPECT_EQ(message(ClientAuthMethod::kNone, true, true),
            R"(client_secret must not be given with option "token_endpoint_auth_method" set to "none")");
}

TEST(ProviderClientTest, NeedsATokenEndpoint) {
  const Status status = CheckProviderClient(ProviderOptions(), true, true);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().message, "option \"token_endpoint\" is missing");
  EXPECT_THAT(status.error().hint, HasSubstr("preset"));
}

}  // namespace
}  // namespace token_refresh
