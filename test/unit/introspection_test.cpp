#include "core/introspection.h"

#include <gtest/gtest.h>

#include <string>

#include "answering_transport.h"
#include "core/encoding.h"

namespace token_refresh {
namespace {

constexpr std::string_view kToken = "fake/access";
constexpr Micros kNow = 1'700'000'000 * kSecond;

Provider SomeProvider() {
  Provider provider;
  provider.client_id = "client";
  provider.client_secret = Secret("fake");
  provider.options.token_endpoint = "https://as.example.com/token";
  provider.options.introspection_endpoint = "https://as.example.com/introspect";
  return provider;
}

Result<HttpRequest> Build(const Provider& provider, std::string_view captured = "") {
  RefreshInput input;
  input.now = kNow;
  input.captured = captured;
  return BuildIntrospectionRequest(provider, input, kToken, {});
}

std::variant<Introspection, FailedAnswer> Read(const HttpResponse& response) {
  return ReadIntrospection(SomeProvider(), response, {kToken, "fake"}, kNow);
}

Introspection Found(const HttpResponse& response) {
  const auto answer = Read(response);
  const Introspection* found = std::get_if<Introspection>(&answer);
  EXPECT_NE(found, nullptr);
  return found == nullptr ? Introspection() : *found;
}

Failure Failed(const HttpResponse& response) {
  const auto answer = Read(response);
  const FailedAnswer* failed = std::get_if<FailedAnswer>(&answer);
  EXPECT_NE(failed, nullptr);
  return failed == nullptr ? Failure{FailureClass::kReauth, "none", {}} : failed->failure;
}

TEST(IntrospectionTest, PostsTheTokenAsTheClient) {
  Provider provider = SomeProvider();
  provider.options.request_headers = {{"X-Tenant", "seven"}};
  const Result<HttpRequest> request = Build(provider);
  ASSERT_TRUE(request);
  EXPECT_EQ(request->method, "POST");
  EXPECT_EQ(request->url, "https://as.example.com/introspect");
  EXPECT_EQ(BodyOf(*request), "token=fake%2Faccess&token_type_hint=access_token");
  EXPECT_EQ(HeaderOf(*request, "Authorization"), "Basic " + Base64Encode("client:fake"));
  EXPECT_EQ(HeaderOf(*request, "X-Tenant"), "seven");
  EXPECT_EQ(HeaderOf(*request, "Accept"), "application/json");
}

TEST(IntrospectionTest, WithoutAClientNothingIsAsked) {
  Provider provider = SomeProvider();
  provider.client_id.clear();
  const Result<HttpRequest> request = Build(provider);
  ASSERT_FALSE(request);
  EXPECT_EQ(request.error().message, "neither the provider nor the credential has a client_id");
}

TEST(IntrospectionTest, ParametersHaveTheNamesThatTheProviderKnows) {
  Provider provider = SomeProvider();
  provider.options.auth_method = ClientAuthMethod::kNone;
  provider.options.request.param_names = {{"client_id", "client_key"}};
  EXPECT_EQ(BodyOf(*Build(provider)), "token=fake%2Faccess&token_type_hint=access_token&client_key=client");
}

TEST(IntrospectionTest, TheClientIsThatOfTheTokenEndpoint) {
  Provider provider = SomeProvider();
  provider.options.auth_method = ClientAuthMethod::kClientSecretPost;
  EXPECT_EQ(BodyOf(*Build(provider)),
            "token=fake%2Faccess&token_type_hint=access_token&client_id=client&client_secret=fake");
  provider.options.auth_method = ClientAuthMethod::kNone;
  EXPECT_EQ(BodyOf(*Build(provider)), "token=fake%2Faccess&token_type_hint=access_token&client_id=client");
}

TEST(IntrospectionTest, TheEndpointMayHavePlacesForCapturedFields) {
  Provider provider = SomeProvider();
  provider.options.introspection_endpoint = "https://${shop}.example.com/introspect";
  provider.options.request.allowed_hosts = {"*.example.com"};
  provider.options.answer.captured_fields = {{"shop", "/shop"}};
  EXPECT_EQ(Build(provider, R"({"shop":"one"})")->url, "https://one.example.com/introspect");
  const Result<HttpRequest> missing = Build(provider);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kInvalidArgument);
}

TEST(IntrospectionTest, AnActiveTokenSaysWhenItExpires) {
  const Introspection found = Found(MakeResponse(200, R"({"active":true,"exp":1700000900,"scope":"api"})"));
  EXPECT_TRUE(found.active);
  EXPECT_EQ(found.expires_in, 900 * kSecond);
  EXPECT_EQ(Found(MakeResponse(200, R"({"active":true,"exp":"1700000900"})")).expires_in, 900 * kSecond);
  EXPECT_EQ(Found(MakeResponse(200, R"({"active":true,"exp":99999999999})")).expires_in, 3650 * kDay);
}

TEST(IntrospectionTest, AnActiveTokenNeedNotSayWhenItExpires) {
  for (const std::string_view exp : {"", R"(,"exp":null)", R"(,"exp":0)", R"(,"exp":"soon")", R"(,"exp":-5)"}) {
    const Introspection found = Found(MakeResponse(200, R"({"active":true)" + std::string(exp) + "}"));
    EXPECT_TRUE(found.active) << exp;
    EXPECT_EQ(found.expires_in, std::nullopt) << exp;
  }
}

TEST(IntrospectionTest, WhatIsOverIsNotActive) {
  EXPECT_FALSE(Found(MakeResponse(200, R"({"active":false})")).active);
  const Introspection over = Found(MakeResponse(200, R"({"active":true,"exp":1600000000})"));
  EXPECT_FALSE(over.active);
  EXPECT_EQ(over.expires_in, std::nullopt);
  EXPECT_EQ(Found(MakeResponse(200, R"({"active":false,"exp":1700000900})")).expires_in, std::nullopt);
}

TEST(IntrospectionTest, EverythingElseIsNoAnswer) {
  for (const HttpResponse& response :
       {MakeResponse(200, ""), MakeResponse(200, "<html>ok</html>"), MakeResponse(200, R"({"active":"true"})"),
        MakeResponse(200, R"({"exp":1700000900})"), MakeResponse(200, "[true]"), MakeResponse(200, R"({"active":tr)"),
        MakeResponse(302, ""), MakeResponse(401, R"({"error":"invalid_client"})"),
        MakeResponse(400, R"({"error":"invalid_grant"})"), MakeResponse(503, ""),
        MakeTransportFailure(TransportFailure::kMaybeHandled)}) {
    const Failure failure = Failed(response);
    EXPECT_EQ(failure.failure, FailureClass::kTransient) << failure.message;
    EXPECT_EQ(failure.message.substr(0, 15), "introspection: ");
  }
}

TEST(IntrospectionTest, ARefusedClientIsToldFromTheRest) {
  for (const HttpResponse& response :
       {MakeResponse(400, R"({"error":"invalid_client"})"), MakeResponse(401, ""), MakeResponse(403, "")})
    EXPECT_TRUE(std::get<FailedAnswer>(Read(response)).client_refused) << response.status;
  for (const HttpResponse& response : {MakeResponse(400, R"({"error":"invalid_request"})"), MakeResponse(503, "")})
    EXPECT_FALSE(std::get<FailedAnswer>(Read(response)).client_refused) << response.status;
}

TEST(IntrospectionTest, ALimitIsHeeded) {
  HttpResponse limited = MakeResponse(429, "");
  limited.retry_after = "7";
  const Failure failure = Failed(limited);
  EXPECT_EQ(failure.failure, FailureClass::kRateLimited);
  EXPECT_EQ(failure.retry_after_us, 7 * kSecond);
}

TEST(IntrospectionTest, WhatTheAnswerEchoesIsScrubbed) {
  const Failure failure =
      Failed(MakeResponse(400, R"({"error":"invalid_request","error_description":"fake/access is unknown"})"));
  EXPECT_EQ(failure.message.find("fake/access"), std::string::npos) << failure.message;
  EXPECT_NE(failure.message.find("is unknown"), std::string::npos) << failure.message;
}

}  // namespace
}  // namespace token_refresh
