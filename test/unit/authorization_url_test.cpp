#include "core/authorization_url.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/encoding.h"

namespace token_refresh {
namespace {

// The pair of RFC 7636 appendix B.
constexpr std::string_view kVerifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
constexpr std::string_view kChallenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

Provider SomeProvider() {
  Provider provider;
  provider.client_id = "the client";
  provider.client_secret = Secret("fake-client-secret");
  provider.options.authorization_endpoint = "https://as.example.com/authorize";
  return provider;
}

AuthorizationParams SomeParams() {
  AuthorizationParams params;
  params.redirect_uri = "https://app.example.com/cb?x=1";
  params.state = "fake-state";
  params.code_verifier = Secret(kVerifier);
  return params;
}

std::string UrlOf(const Provider& provider, const AuthorizationParams& params) {
  const auto result = BuildAuthorizationUrl(provider, params);
  return result ? result->url : "(" + result.error().message + ")";
}

// The message of the refusal, empty without one.
std::string RefusalOf(const Provider& provider, const AuthorizationParams& params) {
  const auto result = BuildAuthorizationUrl(provider, params);
  if (result) return {};
  EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument);
  return result.error().message;
}

bool Holds(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

TEST(AuthorizationSecretsTest, AreLongRandomWords) {
  for (const auto make : {MakeCodeVerifier, MakeState}) {
    const Result<Secret> one = make();
    const Result<Secret> other = make();
    ASSERT_TRUE(one && other);
    EXPECT_EQ(one->size(), 43u);
    EXPECT_TRUE(Base64UrlDecode(one->view()).has_value());
    EXPECT_FALSE(one->Equals(other->view()));
  }
}

TEST(AuthorizationSecretsTest, ChallengeIsThatOfTheStandard) {
  EXPECT_EQ(*CodeChallenge(Secret(kVerifier)), kChallenge);
}

TEST(AuthorizationSecretsTest, NonceIsOfTheVerifierAlone) {
  const std::string nonce = *NonceFor(Secret(kVerifier));
  EXPECT_EQ(nonce, Base64UrlEncode(BytesOf(*HmacSha256(kVerifier, "nonce"))));
  EXPECT_EQ(nonce, *NonceFor(Secret(kVerifier)));
  EXPECT_NE(nonce, *NonceFor(Secret("another-verifier")));
  EXPECT_NE(nonce, kChallenge);
}

TEST(AuthorizationUrlTest, HasWhatTheStandardsWant) {
  const auto result = BuildAuthorizationUrl(SomeProvider(), SomeParams());
  ASSERT_TRUE(result);
  EXPECT_EQ(result->url,
            "https://as.example.com/authorize?response_type=code&client_id=the+client&redirect_uri="
            "https%3A%2F%2Fapp.example.com%2Fcb%3Fx%3D1&state=fake-state&code_challenge=" +
                std::string(kChallenge) + "&code_challenge_method=S256");
  EXPECT_TRUE(result->uses_pkce);
}

TEST(AuthorizationUrlTest, HoldsNoSecret) {
  AuthorizationParams params = SomeParams();
  params.nonce = true;
  const std::string url = UrlOf(SomeProvider(), params);
  EXPECT_FALSE(Holds(url, kVerifier));
  EXPECT_FALSE(Holds(url, "fake-client-secret"));
}

TEST(AuthorizationUrlTest, ScopeAndNonceWhenWanted) {
  AuthorizationParams params = SomeParams();
  params.scope = "openid email";
  params.nonce = true;
  const std::string url = UrlOf(SomeProvider(), params);
  EXPECT_TRUE(Holds(url, "&scope=openid+email&state="));
  EXPECT_TRUE(url.ends_with("&nonce=" + *NonceFor(Secret(kVerifier))));
  EXPECT_FALSE(Holds(UrlOf(SomeProvider(), SomeParams()), "nonce="));
  EXPECT_FALSE(Holds(UrlOf(SomeProvider(), SomeParams()), "scope="));
}

TEST(AuthorizationUrlTest, TheProviderSeparatesScopesItsWay) {
  Provider provider = SomeProvider();
  provider.options.request.scope_separator = ",";
  AuthorizationParams params = SomeParams();
  params.scope = "video.list  user.info";
  EXPECT_TRUE(Holds(UrlOf(provider, params), "&scope=video.list%2Cuser.info&state="));
  params.scope = "video.list,user.info";
  EXPECT_TRUE(Holds(UrlOf(provider, params), "&scope=video.list%2Cuser.info&state="));
}

TEST(AuthorizationUrlTest, TheProviderHasItsOwnNames) {
  Provider provider = SomeProvider();
  provider.options.request.authorization_param_names = {
      {"client_id", "client_key"}, {"scope", "state"}, {"state", "s"}};
  provider.options.request.param_names = {{"redirect_uri", "back"}};
  AuthorizationParams params = SomeParams();
  params.scope = "a";
  EXPECT_TRUE(Holds(UrlOf(provider, params), "&client_key=the+client&redirect_uri="));
  EXPECT_TRUE(Holds(UrlOf(provider, params), "&state=a&s=fake-state&"));
  EXPECT_FALSE(Holds(UrlOf(provider, params), "client_id"));
  // By the standard names they are changed, or not.
  params.extra = {{"scope", std::nullopt}};
  EXPECT_FALSE(Holds(UrlOf(provider, params), "&state=a"));
  params.extra = {{"client_id", "other"}};
  EXPECT_EQ(RefusalOf(provider, params), R"(authorization parameter "client_id" can be neither replaced nor removed)");
  params.extra = {{"client_key", "other"}};
  EXPECT_EQ(RefusalOf(provider, params), R"(authorization parameter "client_key" is what "client_id" is called here)");
  params.extra.clear();
  provider.options.authorization_endpoint = "https://as.example.com/a?client_key=x";
  EXPECT_TRUE(RefusalOf(provider, params).starts_with("option \"authorization_endpoint\" has the parameter"));
}

TEST(AuthorizationUrlTest, TheCallChangesWhatTheProviderSays) {
  Provider provider = SomeProvider();
  provider.options.authorization_params = {{"prompt", "consent"}, {"access_type", "offline"}, {"scope", "a b"}};
  AuthorizationParams params = SomeParams();
  params.scope = "c";
  params.extra = {{"prompt", "select&login"}, {"access_type", std::nullopt}, {"audience", ""}};
  const std::string url = UrlOf(provider, params);
  EXPECT_TRUE(Holds(url, "&prompt=select%26login"));
  EXPECT_TRUE(Holds(url, "&audience="));
  EXPECT_TRUE(Holds(url, "&scope=a+b&"));
  EXPECT_FALSE(Holds(url, "access_type"));
  EXPECT_FALSE(Holds(url, "consent"));
}

TEST(AuthorizationUrlTest, WhatTiesTheAnswerToTheRequestIsFixed) {
  const std::vector<std::optional<std::string>> changes = {"other", std::nullopt};
  for (const char* name : {"state", "response_type", "client_id", "redirect_uri", "nonce", "request", "request_uri"}) {
    for (const std::optional<std::string>& value : changes) {
      const std::string message =
          "authorization parameter \"" + std::string(name) + "\" can be neither replaced nor removed";
      AuthorizationParams params = SomeParams();
      params.extra[name] = value;
      EXPECT_EQ(RefusalOf(SomeProvider(), params), message);
      Provider provider = SomeProvider();
      provider.options.authorization_params[name] = value;
      EXPECT_EQ(RefusalOf(provider, SomeParams()), message);
    }
  }
}

TEST(AuthorizationUrlTest, ChallengeCanBeRemovedAsAWhole) {
  Provider provider = SomeProvider();
  provider.options.authorization_params = {{"code_challenge", std::nullopt}, {"code_challenge_method", std::nullopt}};
  const auto by_provider = BuildAuthorizationUrl(provider, SomeParams());
  ASSERT_TRUE(by_provider);
  EXPECT_FALSE(by_provider->uses_pkce);
  EXPECT_FALSE(Holds(by_provider->url, "code_challenge"));
  AuthorizationParams params = SomeParams();
  params.extra = provider.options.authorization_params;
  const auto by_call = BuildAuthorizationUrl(SomeProvider(), params);
  ASSERT_TRUE(by_call);
  EXPECT_FALSE(by_call->uses_pkce);
  EXPECT_FALSE(Holds(by_call->url, "code_challenge"));
}

TEST(AuthorizationUrlTest, ChallengeCannotBeWeakened) {
  const std::string together =
      "authorization parameters \"code_challenge\" and \"code_challenge_method\" can only be removed together";
  for (const char* name : {"code_challenge", "code_challenge_method"}) {
    AuthorizationParams params = SomeParams();
    params.extra[name] = std::nullopt;
    EXPECT_EQ(RefusalOf(SomeProvider(), params), together);
    params.extra[name] = "plain";
    EXPECT_EQ(RefusalOf(SomeProvider(), params),
              "authorization parameter \"" + std::string(name) + "\" cannot be replaced");
  }
}

TEST(AuthorizationUrlTest, NamesAreUsable) {
  for (const char* name : {"", "a\nb", "\xFF"}) {
    AuthorizationParams params = SomeParams();
    params.extra[name] = "x";
    EXPECT_EQ(RefusalOf(SomeProvider(), params), "the name of an authorization parameter is not usable");
  }
  AuthorizationParams params = SomeParams();
  params.extra["a&state=b"] = "x";
  EXPECT_TRUE(Holds(UrlOf(SomeProvider(), params), "&a%26state%3Db=x"));
}

TEST(AuthorizationUrlTest, KeepsTheQueryOfTheEndpoint) {
  Provider provider = SomeProvider();
  for (const auto& [endpoint, start] : {std::pair("https://as.example.com/a?tenant=7", "?tenant=7&response_type=code"),
                                        std::pair("https://as.example.com/a?tenant=7&", "?tenant=7&response_type=code"),
                                        std::pair("https://as.example.com/a?", "?response_type=code")}) {
    provider.options.authorization_endpoint = endpoint;
    EXPECT_TRUE(UrlOf(provider, SomeParams()).starts_with("https://as.example.com/a" + std::string(start))) << endpoint;
  }
}

TEST(AuthorizationUrlTest, NoParameterTwice) {
  Provider provider = SomeProvider();
  for (const char* query : {"state=x", "a=b&client_id=x", "&&code_challenge"}) {
    provider.options.authorization_endpoint = "https://as.example.com/a?" + std::string(query);
    EXPECT_TRUE(RefusalOf(provider, SomeParams()).starts_with("option \"authorization_endpoint\" has the parameter"));
  }
}

TEST(AuthorizationUrlTest, NeedsAnEndpoint) {
  Provider provider = SomeProvider();
  provider.options.authorization_endpoint.clear();
  const auto result = BuildAuthorizationUrl(provider, SomeParams());
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument);
  EXPECT_FALSE(result.error().hint.empty());
}

TEST(AuthorizationUrlTest, IsBounded) {
  AuthorizationParams params = SomeParams();
  params.extra["long"] = std::string(7000, 'x');
  EXPECT_EQ(RefusalOf(SomeProvider(), params), "");
  params.extra["long"] = std::string(8000, 'x');
  EXPECT_EQ(RefusalOf(SomeProvider(), params), "the authorization URL is longer than 8192 bytes");
}

TEST(AuthorizationUrlTest, ChecksTheRedirectUri) {
  AuthorizationParams params = SomeParams();
  params.redirect_uri = "http://app.example.com/cb";
  EXPECT_EQ(RefusalOf(SomeProvider(), params), "redirect_uri is not a usable absolute URI");
}

TEST(RedirectUriTest, UsableOnes) {
  for (const char* uri :
       {"https://app.example.com/cb", "https://app.example.com", "https://app.example.com:8443/cb?a=b&c=d",
        "http://localhost:3000/cb", "http://127.0.0.1:51004/cb", "http://[::1]/cb", "HTTPS://APP.example.com/cb",
        "com.example.app:/cb", "com.example.app://cb", "com.example.app:/cb?a=b", "com.example-inc.app2:/"}) {
    EXPECT_TRUE(CheckRedirectUri(uri)) << uri;
  }
}

TEST(RedirectUriTest, Others) {
  for (const char* uri : {"",
                          "/cb",
                          "cb",
                          "//app.example.com/cb",
                          "http://app.example.com/cb",
                          "http://127.0.0.1.example.com/cb",
                          "http://localhost.example.com/",
                          "https://app.example.com/cb#x",
                          "https://app.example.com/#",
                          "com.example.app:/cb#x",
                          "https://user:pw@app.example.com/cb",
                          "https:///cb",
                          "https:/cb",
                          "ftp://a.example/",
                          "javascript:alert(1)",
                          "data:text/html,x",
                          "myapp:/cb",
                          "com.example.app:",
                          "com.example.app",
                          "com.example:cb",
                          ".example:/cb",
                          "1com.example:/cb",
                          "com.exa mple:/cb",
                          "com.example.app:/c b",
                          "com.example.app:/c\nb",
                          "com.example.app:/c\"b",
                          "https://app.example.com/c\r\nb",
                          "https://app.example.com/\xC3\xBC",
                          ":/cb"}) {
    const Status status = CheckRedirectUri(uri);
    ASSERT_FALSE(status) << uri;
    EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
  }
}

TEST(RedirectUriTest, SaysWhatIsWrongWithAFragment) {
  EXPECT_EQ(CheckRedirectUri("https://app.example.com/cb#x").error().message, "redirect_uri must not have a fragment");
}

TEST(RedirectUriTest, Length) {
  const std::string start = "com.example.app:/";
  EXPECT_TRUE(CheckRedirectUri(start + std::string(kMaxRedirectUriBytes - start.size(), 'a')));
  EXPECT_FALSE(CheckRedirectUri(start + std::string(kMaxRedirectUriBytes - start.size() + 1, 'a')));
}

TEST(AuthorizationUrlTest, RefusesATokenEndpointThatNobodyKnowsYet) {
  Provider provider = SomeProvider();
  provider.options.token_endpoint = "https://${shop}.example.com/token";
  EXPECT_TRUE(RefusalOf(provider, SomeParams()).starts_with("option \"token_endpoint\" has places for captured fields"));
}

}  // namespace
}  // namespace token_refresh
