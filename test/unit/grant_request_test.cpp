// Refreshes that are not the textbook's: other grants, and other ways in which the client proves itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "core/client_authentication.h"
#include "core/client_secret_parts.h"
#include "core/secret_json.h"
#include "core/token_request.h"
#include "core/uuid.h"
#include "jose_keys.h"
#include "option_parsing.h"

namespace token_refresh {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr Micros kNow = 1'700'000'000'123 * kMillisecond;
constexpr int64_t kNowSeconds = 1'700'000'000;

// Options as they are written, on top of a token endpoint.
Provider ProviderOf(std::string_view options, std::string_view secret) {
  Provider provider;
  provider.client_id = "client-1";
  provider.client_secret = Secret(secret);
  std::string json = R"({"token_endpoint": "https://as.example.com/token")";
  if (!options.empty()) json.append(", ").append(options);
  provider.options = ParsedOptions(json + "}");
  return provider;
}

RefreshInput Input() {
  RefreshInput input;
  input.refresh_token = "fake-refresh";
  input.subject = "user-7";
  input.now = kNow;
  return input;
}

HttpRequest Built(const Provider& provider, const RefreshInput& input = Input()) {
  Result<HttpRequest> request = BuildRefreshRequest(provider, input, {});
  if (request) return *std::move(request);
  ADD_FAILURE() << request.error().message;
  return {};
}

std::string ErrorOf(const Provider& provider, const RefreshInput& input = Input()) {
  const Result<HttpRequest> request = BuildRefreshRequest(provider, input, {});
  return request ? "none" : request.error().message;
}

std::string Body(const HttpRequest& request) { return std::string(request.body.view()); }

std::string Param(const HttpRequest& request, std::string_view name) {
  const std::string body = "&" + Body(request);
  const std::string key = "&" + std::string(name) + "=";
  const size_t start = body.find(key);
  if (start == std::string::npos) return "(none)";
  return body.substr(start + key.size(), body.find('&', start + key.size()) - start - key.size());
}

std::string AuthorizationOf(const HttpRequest& request) {
  for (const HttpHeader& header : request.headers) {
    if (header.name == "Authorization") return std::string(header.value.view());
  }
  return "(none)";
}

constexpr char kBearer[] = R"("grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer")";

// The claims, after the signature has been checked.
SecretJson Claims(const std::string& token, const SigningKey& key) {
  const VerifiedJws verified = VerifyJws(token, SetOf({key}));
  EXPECT_TRUE(verified.ok()) << token;
  return ParseSecretJson(verified.payload.view()).value_or(SecretJson::object());
}

std::string HeaderOf(const std::string& token) {
  return std::string(Base64UrlDecode(token.substr(0, token.find('.')))->view());
}

std::string ClaimText(const SecretJson& claims, std::string_view name) {
  const SecretJson* claim = FindMember(claims, name);
  return claim == nullptr ? "(none)" : std::string(claim->dump());
}

// ---- what is presented

TEST(GrantRequestTest, ClientCredentialsNeedNoToken) {
  const Provider provider = ProviderOf(R"("grant_type": "client_credentials", "scope": "a b")", "fake-password");
  EXPECT_EQ(Body(Built(provider)), "grant_type=client_credentials&scope=a+b");
  RefreshInput bare;
  bare.now = kNow;
  EXPECT_EQ(Body(Built(provider, bare)), "grant_type=client_credentials&scope=a+b");
}

TEST(GrantRequestTest, TheAccessTokenIsExchanged) {
  const Provider exchange =
      ProviderOf(R"("grant_type": "urn:ietf:params:oauth:grant-type:token-exchange")", "fake-password");
  EXPECT_EQ(Body(Built(exchange)),
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=fake-refresh&"
            "subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token");
  const Provider with_refresh_token = ProviderOf(
      R"("grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "refresh_with": "refresh_token")", "fake");
  EXPECT_THAT(Body(Built(with_refresh_token)), HasSubstr("subject_token=fake-refresh&subject_token_type=urn%3Aietf%3A"
                                                         "params%3Aoauth%3Atoken-type%3Arefresh_token"));
}

TEST(GrantRequestTest, LongLivedTokensInTheirVendorsWay) {
  const HttpRequest facebook = Built(ProviderOf(
      R"("grant_type": "fb_exchange_token", "refresh_with": "access_token", "request_method": "GET",
         "param_names": {"access_token": "fb_exchange_token"}, "token_endpoint_auth_method": "client_secret_post")",
      "fake-password"));
  EXPECT_EQ(facebook.method, "GET");
  EXPECT_EQ(
      facebook.query.view(),
      "grant_type=fb_exchange_token&fb_exchange_token=fake-refresh&client_id=client-1&client_secret=fake-password");
  const HttpRequest instagram = Built(ProviderOf(
      R"("grant_type": "ig_refresh_token", "refresh_with": "access_token", "request_method": "GET",
         "token_endpoint_auth_method": "none", "request_params": {"client_id": null})",
      ""));
  EXPECT_EQ(instagram.query.view(), "grant_type=ig_refresh_token&access_token=fake-refresh");
}

TEST(GrantRequestTest, AMissingTokenIsSaid) {
  RefreshInput bare;
  EXPECT_EQ(ErrorOf(ProviderOf("", "fake"), bare), "there is no refresh token to present");
  EXPECT_EQ(ErrorOf(ProviderOf(R"("grant_type": "x", "refresh_with": "access_token")", "fake"), bare),
            "there is no access token to present");
}

TEST(GrantRequestTest, CapturedFieldsComeBeforeVariables) {
  const Provider provider = ProviderOf(
      R"("refresh_endpoint": "https://${shard}.as.example.com/t/${tenant}",
         "variables": {"tenant": "fixed"}, "request_params": {"team": "${team||tenant}"},
         "captured_fields": {"shard": "/shard", "tenant": "/tenant", "team": "/team/id"})",
      "fake");
  RefreshInput input = Input();
  input.captured = R"({"shard":"eu-3","tenant":"a/b"})";
  const HttpRequest request = Built(provider, input);
  EXPECT_EQ(request.url, "https://eu-3.as.example.com/t/a%2Fb");
  EXPECT_EQ(Param(request, "team"), "a%2Fb");
  input.captured = R"({"shard":"eu-3","tenant":""})";
  EXPECT_EQ(Built(provider, input).url, "https://eu-3.as.example.com/t/fixed");
  for (const char* captured : {"", "{}", "not json", "[]", R"({"shard":7})"}) {
    input.captured = captured;
    EXPECT_EQ(ErrorOf(provider, input), "there is no value for ${shard}") << captured;
  }
}

// The registration has taken the name over since it was captured.
TEST(GrantRequestTest, WhatIsNotCapturedAnyMoreDecidesNothing) {
  const Provider provider =
      ProviderOf(R"("variables": {"tenant": "ours"}, "request_params": {"tenant": "${tenant}"})", "fake");
  RefreshInput input = Input();
  input.captured = R"({"tenant":"theirs"})";
  EXPECT_EQ(Param(Built(provider, input), "tenant"), "ours");
}

// ---- assertions

TEST(ClientAssertionTest, EveryKindOfKeySigns) {
  struct Case {
    std::string alg;
    EVP_PKEY* pkey;
    SigningKey key;
  };
  for (const Case& c : {Case{"RS256", RsaPkey(), Rs256("")}, Case{"PS256", RsaPkey(), Ps256("")},
                        Case{"ES256", EcPkey(), Es256("")}, Case{"EdDSA", EdPkey(), EdDsa("")}}) {
    const Provider provider = ProviderOf(R"("token_endpoint_auth_method": "private_key_jwt",
        "token_endpoint_auth_signing_alg": ")" +
                                             c.alg + "\"",
                                         PrivatePem(c.pkey));
    const HttpRequest request = Built(provider);
    EXPECT_EQ(Param(request, "client_id"), "client-1");
    EXPECT_EQ(Param(request, "client_assertion_type"),
              "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer");
    EXPECT_EQ(Param(request, "client_secret"), "(none)");
    EXPECT_EQ(AuthorizationOf(request), "(none)");
    const std::string token = Param(request, "client_assertion");
    EXPECT_EQ(HeaderOf(token), R"({"alg":")" + c.alg + R"(","typ":"JWT"})");
    const SecretJson claims = Claims(token, c.key);
    EXPECT_EQ(ClaimText(claims, "iss"), "\"client-1\"");
    EXPECT_EQ(ClaimText(claims, "sub"), "\"client-1\"");
    EXPECT_EQ(ClaimText(claims, "aud"), "\"https://as.example.com/token\"");
    EXPECT_EQ(ClaimText(claims, "iat"), std::to_string(kNowSeconds));
    EXPECT_EQ(ClaimText(claims, "exp"), std::to_string(kNowSeconds + 60));
    EXPECT_TRUE(ParseUuid(TextOf(*FindMember(claims, "jti")).value_or("")).has_value());
    EXPECT_EQ(claims.size(), 6u);
  }
}

TEST(ClientAssertionTest, EachHasANewId) {
  const Provider provider = ProviderOf(R"("token_endpoint_auth_method": "private_key_jwt")", PrivatePem(EdPkey()));
  EXPECT_NE(Param(Built(provider), "client_assertion"), Param(Built(provider), "client_assertion"));
}

TEST(ClientAssertionTest, OptionsShapeIt) {
  const Provider provider = ProviderOf(
      R"("token_endpoint_auth_method": "private_key_jwt", "assertion_audience": "https://as.example.com",
         "assertion_lifetime": 300000000, "assertion_headers": {"kid": "key-1", "x5t": "abc"},
         "refresh_endpoint": "https://other.example.com/refresh")",
      PrivatePem(EcPkey()));
  const std::string token = Param(Built(provider), "client_assertion");
  EXPECT_EQ(HeaderOf(token), R"({"alg":"ES256","kid":"key-1","typ":"JWT","x5t":"abc"})");
  const SecretJson claims = Claims(token, Es256("key-1"));
  EXPECT_EQ(ClaimText(claims, "aud"), "\"https://as.example.com\"");
  EXPECT_EQ(ClaimText(claims, "exp"), std::to_string(kNowSeconds + 300));
}

TEST(ClientAssertionTest, TheAudienceIsTheTokenEndpointWithItsValues) {
  const Provider provider = ProviderOf(
      R"("token_endpoint_auth_method": "private_key_jwt", "captured_fields": ["t"],
         "refresh_endpoint": "https://${t}.example.com/refresh")",
      PrivatePem(EcPkey()));
  RefreshInput input = Input();
  input.captured = R"({"t":"acme"})";
  const HttpRequest request = Built(provider, input);
  EXPECT_EQ(request.url, "https://acme.example.com/refresh");
  EXPECT_EQ(ClaimText(Claims(Param(request, "client_assertion"), Es256("")), "aud"),
            "\"https://as.example.com/token\"");
}

TEST(ClientAssertionTest, TheSecretSignsWithHs256) {
  const Provider provider = ProviderOf(R"("token_endpoint_auth_method": "client_secret_jwt")", kFakeSecret);
  const HttpRequest request = Built(provider);
  const std::string token = Param(request, "client_assertion");
  EXPECT_EQ(HeaderOf(token), R"({"alg":"HS256","typ":"JWT"})");
  EXPECT_EQ(ClaimText(Claims(token, Hs256("")), "iss"), "\"client-1\"");
  EXPECT_THAT(Body(request), Not(HasSubstr(std::string(kFakeSecret))));
}

TEST(ClientAssertionTest, ThePreviousKeySignsWhenAsked) {
  Provider provider = ProviderOf(R"("token_endpoint_auth_method": "private_key_jwt")", PrivatePem(EcPkey()));
  provider.previous_client_secret = Secret(PrivatePem(EdPkey()));
  RefreshInput input = Input();
  input.previous_secret = true;
  Claims(Param(Built(provider, input), "client_assertion"), EdDsa(""));
  Claims(Param(Built(provider), "client_assertion"), Es256(""));
}

TEST(ClientAssertionTest, AKeyThatCannotBeUsedIsSaidWithoutShowingIt) {
  const std::string method = R"("token_endpoint_auth_method": "private_key_jwt")";
  EXPECT_EQ(ErrorOf(ProviderOf(method, "fake-password")), "client_secret holds no private key");
  const std::string broken = "-----BEGIN PRIVATE KEY-----\nZmFrZQ==\n-----END PRIVATE KEY-----\n";
  EXPECT_THAT(ErrorOf(ProviderOf(method, broken)), Not(HasSubstr("ZmFrZQ")));
  EXPECT_NE(ErrorOf(ProviderOf(method, broken)), "none");
  const Provider wrong = ProviderOf(method + R"(, "token_endpoint_auth_signing_alg": "RS256")", PrivatePem(EcPkey()));
  EXPECT_NE(ErrorOf(wrong), "none");
  EXPECT_FALSE(CheckClientSecret(wrong.options, PrivatePem(EcPkey())).ok());
  EXPECT_TRUE(CheckClientSecret(wrong.options, PrivatePem(RsaPkey())).ok());
  EXPECT_FALSE(CheckClientSecret(wrong.options, PublicPem(RsaPkey())).ok());
}

TEST(JwtBearerTest, TheAssertionIsTheGrant) {
  const Provider provider = ProviderOf(
      std::string(kBearer) +
          R"(, "token_endpoint_auth_method": "none", "assertion_subject": "${subject}", "assertion_audience": "https://aud",
         "assertion_claims": {"scope": "a ${client_id}", "level": 7, "roles": ["x"], "jti": null})",
      PrivatePem(RsaPkey()));
  const HttpRequest request = Built(provider);
  EXPECT_EQ(Param(request, "grant_type"), "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer");
  EXPECT_EQ(Param(request, "refresh_token"), "(none)");
  const SecretJson claims = Claims(Param(request, "assertion"), Rs256(""));
  EXPECT_EQ(ClaimText(claims, "iss"), "\"client-1\"");
  EXPECT_EQ(ClaimText(claims, "sub"), "\"user-7\"");
  EXPECT_EQ(ClaimText(claims, "aud"), "\"https://aud\"");
  EXPECT_EQ(ClaimText(claims, "scope"), "\"a client-1\"");
  EXPECT_EQ(ClaimText(claims, "level"), "7");
  EXPECT_EQ(ClaimText(claims, "roles"), "[\"x\"]");
  EXPECT_EQ(ClaimText(claims, "jti"), "(none)");
}

TEST(JwtBearerTest, TheClientIsTheSubjectUnlessItIsRemoved) {
  const std::string none = std::string(kBearer) + R"(, "token_endpoint_auth_method": "none")";
  const Provider plain = ProviderOf(none, PrivatePem(EcPkey()));
  EXPECT_EQ(ClaimText(Claims(Param(Built(plain), "assertion"), Es256("")), "sub"), "\"client-1\"");
  const Provider without = ProviderOf(none + R"(, "assertion_claims": {"sub": null})", PrivatePem(EcPkey()));
  EXPECT_EQ(ClaimText(Claims(Param(Built(without), "assertion"), Es256("")), "sub"), "(none)");
}

TEST(JwtBearerTest, ASecretStandsInFrontOfTheKey) {
  const Provider provider = ProviderOf(std::string(kBearer) + R"(, "token_endpoint_auth_method": "client_secret_post")",
                                       "fake-password\n" + PrivatePem(EcPkey()));
  const HttpRequest request = Built(provider);
  EXPECT_EQ(Param(request, "client_secret"), "fake-password");
  Claims(Param(request, "assertion"), Es256(""));
  EXPECT_THAT(Body(request), Not(HasSubstr("BEGIN")));
  EXPECT_EQ(CheckClientSecret(provider.options, PrivatePem(EcPkey())).error().message,
            "client_secret holds a private key, but no secret in front of it");
}

TEST(JwtBearerTest, ThereMayBeTwoKeysInAnOverlap) {
  Provider provider;
  provider.client_secret = Secret("new");
  provider.previous_client_secret = Secret("old");
  provider.options.auth_method = ClientAuthMethod::kNone;
  EXPECT_FALSE(HasTwoSecrets(provider));
  provider.options.request.grant_type = kJwtBearerGrant;
  EXPECT_TRUE(HasTwoSecrets(provider));
  provider.previous_client_secret = Secret("new");
  EXPECT_FALSE(HasTwoSecrets(provider));
}

TEST(JwtBearerTest, AMissingSubjectIsNamed) {
  RefreshInput input = Input();
  input.subject = "";
  const Provider provider =
      ProviderOf(std::string(kBearer) + R"(, "token_endpoint_auth_method": "none", "assertion_subject": "${subject}")",
                 PrivatePem(EcPkey()));
  EXPECT_EQ(ErrorOf(provider, input), "there is no value for ${subject}");
}

// ---- other proofs

TEST(ClientProofTest, TheSecretAsUserName) {
  const HttpRequest request = Built(ProviderOf(R"("basic_user": "client_secret")", "fake-password"));
  EXPECT_EQ(AuthorizationOf(request), "Basic " + Base64Encode("fake-password:"));
}

TEST(ClientProofTest, ACertificateNeedsOnlyTheClientsName) {
  for (const char* method : {"tls_client_auth", "self_signed_tls_client_auth"}) {
    const HttpRequest request = Built(ProviderOf(
        R"("client_certificate": "/etc/c.pem", "client_key": "/etc/k.pem", "token_endpoint_auth_method": ")" +
            std::string(method) + "\"",
        ""));
    EXPECT_EQ(Body(request), "grant_type=refresh_token&refresh_token=fake-refresh&client_id=client-1");
    EXPECT_EQ(request.client_certificate, "/etc/c.pem");
    EXPECT_EQ(request.client_key, "/etc/k.pem");
    EXPECT_EQ(AuthorizationOf(request), "(none)");
  }
}

TEST(ClientProofTest, TheOtherSecretWhenAsked) {
  Provider provider = ProviderOf("", "fake-new");
  provider.previous_client_secret = Secret("fake-old");
  RefreshInput input = Input();
  EXPECT_EQ(AuthorizationOf(Built(provider, input)), "Basic " + Base64Encode("client-1:fake-new"));
  input.previous_secret = true;
  EXPECT_EQ(AuthorizationOf(Built(provider, input)), "Basic " + Base64Encode("client-1:fake-old"));
}

// Both sides know the secret of client_secret_jwt, nobody else a private key.
TEST(ClientSecretTest, APrivateKeyIsNoSecretToSignWith) {
  const ProviderOptions options = ProviderOf(R"("token_endpoint_auth_method": "client_secret_jwt")", "fake").options;
  EXPECT_TRUE(CheckClientSecret(options, "fake").ok());
  EXPECT_EQ(CheckClientSecret(options, PrivatePem(EcPkey())).error().message,
            "client_secret holds a private key, and client_secret_jwt signs with a secret");
}

// The method has been changed, and the key is still where the secret is; or it is the former one of an overlap.
TEST(ClientSecretTest, APrivateKeyIsNeverSent) {
  const std::string pem = PrivatePem(EcPkey());
  for (const std::string method : {"client_secret_basic", "client_secret_post"}) {
    const std::string option = R"("token_endpoint_auth_method": ")" + method + "\"";
    Provider provider = ProviderOf(option, pem);
    EXPECT_EQ(ErrorOf(provider), "client_secret is a private key, which is never sent");
    EXPECT_EQ(CheckClientSecret(provider.options, pem).error().message,
              "client_secret holds a private key, which is never sent");
    provider.client_secret = Secret("fake-new");
    provider.previous_client_secret = Secret(pem);
    RefreshInput input = Input();
    EXPECT_NE(Body(Built(provider, input)), "");
    input.previous_secret = true;
    EXPECT_EQ(ErrorOf(provider, input), "client_secret is a private key, which is never sent");
    // Of both in one text the secret alone.
    provider.client_secret = Secret("fake-new\n" + pem);
    EXPECT_EQ(Body(Built(provider)).find("BEGIN"), std::string::npos);
    EXPECT_EQ(Body(Built(provider)), Body(Built(ProviderOf(option, "fake-new"))));
  }
}

}  // namespace
}  // namespace token_refresh
