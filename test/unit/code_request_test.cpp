#include "core/code_request.h"

#include <gtest/gtest.h>

#include <string>

#include "answering_transport.h"
#include "core/encoding.h"
#include "core/uuid.h"
#include "jose_keys.h"

namespace token_refresh {
namespace {

constexpr Micros kNow = 1'700'000'000'123 * kMillisecond;

Provider SomeProvider(ClientAuthMethod method) {
  Provider provider;
  provider.client_id = "client";
  if (method != ClientAuthMethod::kNone) provider.client_secret = Secret("fake+secret");
  provider.options.token_endpoint = "https://as.example.com/token";
  provider.options.refresh_endpoint = "https://as.example.com/refresh";
  provider.options.auth_method = method;
  return provider;
}

Result<HttpRequest> TryToBuild(const Provider& provider, std::string_view verifier = "fake-verifier") {
  return BuildCodeRequest(provider, Secret("fake/code"), Secret(verifier), "https://app.example.com/cb", kNow, {});
}

HttpRequest Build(const Provider& provider, std::string_view verifier = "fake-verifier") {
  Result<HttpRequest> request = TryToBuild(provider, verifier);
  EXPECT_TRUE(request.ok()) << request.error().message;
  return request.ok() ? *std::move(request) : HttpRequest();
}

TEST(CodeRequestTest, PostsTheCodeToTheTokenEndpoint) {
  const HttpRequest request = Build(SomeProvider(ClientAuthMethod::kClientSecretBasic));
  EXPECT_TRUE(request.only_once);
  EXPECT_EQ(request.method, "POST");
  EXPECT_EQ(request.url, "https://as.example.com/token");
  EXPECT_EQ(BodyOf(request),
            "grant_type=authorization_code&code=fake%2Fcode&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb&"
            "code_verifier=fake-verifier");
  EXPECT_EQ(HeaderOf(request, "Content-Type"), "application/x-www-form-urlencoded");
  EXPECT_EQ(HeaderOf(request, "Authorization"), "Basic " + Base64Encode("client:fake%2Bsecret"));
}

TEST(CodeRequestTest, OtherWaysToAuthenticate) {
  const std::string start = BodyOf(Build(SomeProvider(ClientAuthMethod::kClientSecretBasic)));
  const HttpRequest post = Build(SomeProvider(ClientAuthMethod::kClientSecretPost));
  EXPECT_EQ(BodyOf(post), start + "&client_id=client&client_secret=fake%2Bsecret");
  EXPECT_EQ(HeaderOf(post, "Authorization"), "(none)");
  EXPECT_EQ(BodyOf(Build(SomeProvider(ClientAuthMethod::kNone))), start + "&client_id=client");
}

TEST(CodeRequestTest, AKeyProvesTheClient) {
  Provider provider = SomeProvider(ClientAuthMethod::kPrivateKeyJwt);
  provider.client_secret = Secret(PrivatePem(EcPkey()));
  const std::string body = BodyOf(Build(provider));
  EXPECT_NE(body.find("&client_id=client&client_assertion_type="), std::string::npos) << body;
  const std::string_view name = "&client_assertion=";
  ASSERT_NE(body.find(name), std::string::npos) << body;
  const std::string jwt = body.substr(body.find(name) + name.size());
  const size_t first = jwt.find('.');
  const std::optional<Secret> payload = Base64UrlDecode(jwt.substr(first + 1, jwt.find('.', first + 1) - first - 1));
  ASSERT_TRUE(payload.has_value());
  const std::string claims(payload->view());
  EXPECT_NE(claims.find(R"("iat":1700000000)"), std::string::npos) << "of the caller's time: " << claims;
  EXPECT_NE(claims.find(R"("aud":"https://as.example.com/token")"), std::string::npos) << claims;
}

TEST(CodeRequestTest, AKeyThatCannotBeUsed) {
  Provider provider = SomeProvider(ClientAuthMethod::kPrivateKeyJwt);
  const Result<HttpRequest> request = TryToBuild(provider);
  ASSERT_FALSE(request.ok());
  EXPECT_EQ(request.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(request.error().message.find("fake"), std::string::npos) << request.error().message;
}

TEST(CodeRequestTest, AUuidInAHeader) {
  Provider provider = SomeProvider(ClientAuthMethod::kNone);
  provider.options.request_headers = {{"X-Request-Id", "${uuid}"}, {"X-At", "${now}"}};
  const HttpRequest request = Build(provider);
  EXPECT_TRUE(ParseUuid(HeaderOf(request, "X-Request-Id")).has_value()) << HeaderOf(request, "X-Request-Id");
  EXPECT_NE(HeaderOf(Build(provider), "X-Request-Id"), HeaderOf(request, "X-Request-Id"));
  EXPECT_EQ(HeaderOf(request, "X-At"), "1700000000");
}

TEST(CodeRequestTest, HeadersHaveTheirValuesAndParametersTheirNames) {
  Provider provider = SomeProvider(ClientAuthMethod::kNone);
  provider.options.request_headers = {{"X-Client", "${client_id}"}, {"X-Id", "${uuid}"}, {"X-Subject", "${subject}"}};
  provider.options.request.param_names = {{"client_id", "client_key"}};
  const HttpRequest request = Build(provider, "");
  EXPECT_EQ(HeaderOf(request, "X-Client"), "client");
  EXPECT_EQ(HeaderOf(request, "X-Id").size(), 36u);
  EXPECT_EQ(HeaderOf(request, "X-Subject"), "(none)");
  EXPECT_TRUE(BodyOf(request).ends_with("&client_key=client")) << BodyOf(request);
}

TEST(CodeRequestTest, NoVerifierWithoutPkce) {
  EXPECT_EQ(BodyOf(Build(SomeProvider(ClientAuthMethod::kNone), "")),
            "grant_type=authorization_code&code=fake%2Fcode&redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb&"
            "client_id=client");
}

TEST(CodeRequestTest, TheProvidersHeadersCountButNotTheParamsOfARefresh) {
  Provider provider = SomeProvider(ClientAuthMethod::kNone);
  const std::string body = BodyOf(Build(provider));
  provider.options.request_headers = {{"X-Tenant", "seven"}, {"accept", "text/plain"}};
  provider.options.request_params = {{"audience", "x"}, {"client_id", std::nullopt}};
  provider.options.scope = "read";
  const HttpRequest request = Build(provider);
  EXPECT_EQ(BodyOf(request), body);
  EXPECT_EQ(HeaderOf(request, "X-Tenant"), "seven");
  EXPECT_EQ(HeaderOf(request, "Accept"), "text/plain");
}

TEST(CodeRequestTest, FormatAndNamesAreThoseOfTheProvider) {
  Provider provider = SomeProvider(ClientAuthMethod::kClientSecretPost);
  provider.options.request.param_names = {{"client_id", "client_key"}};
  provider.options.request.format = RequestFormat::kJson;
  const HttpRequest json = Build(provider);
  EXPECT_EQ(BodyOf(json), R"({"grant_type":"authorization_code","code":"fake/code",)"
                          R"("redirect_uri":"https://app.example.com/cb","code_verifier":"fake-verifier",)"
                          R"("client_key":"client","client_secret":"fake+secret"})");
  EXPECT_EQ(HeaderOf(json, "Content-Type"), "application/json");
  provider.options.request.format = RequestFormat::kQuery;
  EXPECT_EQ(Build(provider).body.size(), 0u);
  EXPECT_NE(Build(provider).query.view().find("code=fake%2Fcode"), std::string_view::npos);
  // A refresh by GET leaves the code where it belongs.
  provider.options.request.method = RequestMethod::kGet;
  EXPECT_EQ(Build(provider).method, "POST");
  EXPECT_EQ(BodyOf(Build(provider)).find("grant_type=authorization_code&code=fake%2Fcode"), 0u);
}

TEST(CodeRequestTest, PlacesInHeadersAreFilledAndTheRequestIsSigned) {
  Provider provider = SomeProvider(ClientAuthMethod::kNone);
  provider.client_secret = Secret("fake-secret");
  provider.options.request.signature = RequestSignature{"${body}${now_ms}"};
  provider.options.request_headers = {
      {"X-App", "${client_id}"}, {"X-Shop", "${shop}"}, {"X-Sign", "${signature}"}, {"X-Dollar", "$${x}"}};
  const HttpRequest request = Build(provider);
  EXPECT_EQ(HeaderOf(request, "X-App"), "client");
  EXPECT_EQ(HeaderOf(request, "X-Shop"), "(none)");
  EXPECT_EQ(HeaderOf(request, "X-Dollar"), "${x}");
  EXPECT_EQ(HeaderOf(request, "X-Sign"),
            HexEncode(BytesOf(*HmacSha256("fake-secret", BodyOf(request) + "1700000000123"))));
}

TEST(CodeRequestTest, TheProvidersLimitsCount) {
  Provider provider = SomeProvider(ClientAuthMethod::kNone);
  provider.options.timeout = 2 * kSecond;
  provider.options.ca_file = "/etc/own.pem";
  const HttpRequest request = Build(provider);
  EXPECT_EQ(request.timeout, 2 * kSecond);
  EXPECT_EQ(request.ca_file, "/etc/own.pem");
}

}  // namespace
}  // namespace token_refresh
