// Options that say how the client proves itself, and which of them go together.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "option_parsing.h"

namespace token_refresh {
namespace {

using testing::HasSubstr;

constexpr char kBearer[] = R"("grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer")";

struct RefusalCase {
  const char* name;
  const char* json;
  const char* message;
};

void PrintTo(const RefusalCase& row, std::ostream* out) { *out << row.name; }

class ClientRefusalTest : public testing::TestWithParam<RefusalCase> {};

TEST_P(ClientRefusalTest, SaysWhatIsWrong) { EXPECT_EQ(RefusedOptions(GetParam().json).message, GetParam().message); }

INSTANTIATE_TEST_SUITE_P(
    Combinations, ClientRefusalTest,
    testing::Values(
        RefusalCase{"credentials_with_token",
                    R"({"grant_type": "client_credentials", "refresh_with": "refresh_token"})",
                    R"(option "refresh_with" must be "nothing" with this "grant_type")"},
        RefusalCase{"refresh_with_nothing", R"({"refresh_with": "nothing"})",
                    R"(option "refresh_with" must not be "nothing" with this "grant_type")"},
        RefusalCase{"hs256_key", R"({"token_endpoint_auth_method": "private_key_jwt",
                                     "token_endpoint_auth_signing_alg": "HS256"})",
                    R"(option "token_endpoint_auth_signing_alg" must not be "HS256": it is a private key that signs)"},
        RefusalCase{"rs256_secret", R"({"token_endpoint_auth_method": "client_secret_jwt",
                                        "token_endpoint_auth_signing_alg": "RS256"})",
                    R"(option "token_endpoint_auth_signing_alg" must be "HS256" with client_secret_jwt)"},
        RefusalCase{"claims_without_grant", R"({"token_endpoint_auth_method": "private_key_jwt",
                                                "assertion_claims": {"a": "b"}})",
                    R"(option "assertion_claims" is only of use with option "grant_type" set to )"
                    R"("urn:ietf:params:oauth:grant-type:jwt-bearer")"},
        RefusalCase{"audience_without_jwt", R"({"assertion_audience": "x"})",
                    R"(option "assertion_audience" is only of use with client_secret_jwt, private_key_jwt, or option )"
                    R"("grant_type" set to "urn:ietf:params:oauth:grant-type:jwt-bearer")"},
        RefusalCase{"user_without_basic", R"({"token_endpoint_auth_method": "none", "basic_user": "client_secret"})",
                    R"(option "basic_user" is only of use with client_secret_basic)"},
        RefusalCase{"secret_jwt_bearer", R"({"token_endpoint_auth_method": "client_secret_jwt",
                                             "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer"})",
                    R"(option "token_endpoint_auth_method" must not be "client_secret_jwt" with the JWT bearer grant)"},
        RefusalCase{"header_alg", R"({"token_endpoint_auth_method": "private_key_jwt",
                                      "assertion_headers": {"alg": "none"}})",
                    R"(option "assertion_headers" must not hold "alg")"},
        RefusalCase{"lifetime", R"({"token_endpoint_auth_method": "private_key_jwt", "assertion_lifetime": 1000})",
                    R"(option "assertion_lifetime" must be between 1 second and 1 hour)"},
        RefusalCase{"place", R"({"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
                                 "token_endpoint_auth_method": "none", "assertion_subject": "${subjct}"})",
                    R"(option "assertion_subject" holds ${subjct}, which is neither in "variables" nor in )"
                    R"("captured_fields")"},
        RefusalCase{"key_alone", R"({"client_key": "/k.pem"})",
                    R"(option "client_key" needs option "client_certificate")"},
        RefusalCase{"key_relative", R"({"client_key": "k.pem", "client_certificate": "/c.pem"})",
                    R"(option "client_key" must be an absolute path)"}),
    [](const auto& info) { return info.param.name; });

TEST(ClientCombinationTest, WhatTheClientNeeds) {
  const auto check = [](std::string_view json, bool has_secret) {
    const Status status = CheckProviderClient(
        ParsedOptions(R"({"token_endpoint": "https://a.example/t", )" + std::string(json) + "}"), true, has_secret);
    return status.ok() ? std::string("fine") : status.error().message;
  };
  EXPECT_EQ(check(R"("token_endpoint_auth_method": "private_key_jwt")", true), "fine");
  EXPECT_THAT(check(R"("token_endpoint_auth_method": "private_key_jwt")", false), HasSubstr("client_secret is needed"));
  EXPECT_THAT(check(R"("token_endpoint_auth_method": "tls_client_auth")", false),
              HasSubstr("option \"client_certificate\" is needed"));
  EXPECT_EQ(check(R"("token_endpoint_auth_method": "tls_client_auth", "client_certificate": "/c.pem")", false), "fine");
  EXPECT_THAT(check(R"("token_endpoint_auth_method": "tls_client_auth", "client_certificate": "/c.pem")", true),
              HasSubstr("client_secret must not be given"));
  const std::string bearer = std::string(kBearer) + R"(, "token_endpoint_auth_method": "none")";
  EXPECT_EQ(check(bearer, true), "fine");
  EXPECT_THAT(check(bearer, false), HasSubstr("client_secret is needed with option \"grant_type\""));
}

// Where clients are registered for single credentials, the provider has something to prove as well, or nothing.
TEST(RegistrationTest, WhatTheProviderLacksIsSaid) {
  const auto check = [](std::string_view method, bool has_secret, std::string_view more = "") {
    return CheckProviderClient(ParsedOptions(R"({"token_endpoint": "https://as.example.com/token",
                                                 "registration_endpoint": "https://as.example.com/register",
                                                 "token_endpoint_auth_method": ")" +
                                             std::string(method) + "\"" + std::string(more) + "}"),
                               false, has_secret);
  };
  EXPECT_TRUE(check("client_secret_basic", false).ok());
  EXPECT_TRUE(check("private_key_jwt", false).ok());
  EXPECT_TRUE(check("private_key_jwt", true).ok());
  EXPECT_TRUE(check("tls_client_auth", false, R"(, "client_certificate": "/c.pem")").ok());
  EXPECT_EQ(
      check("tls_client_auth", false).error().message,
      R"(option "client_certificate" is needed with option "token_endpoint_auth_method" set to "tls_client_auth")");
  EXPECT_EQ(check("client_secret_basic", true).error().message, "client_secret needs client_id");
}

}  // namespace
}  // namespace token_refresh
