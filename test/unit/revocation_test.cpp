#include "core/revocation.h"

#include <gtest/gtest.h>

#include <string>

#include "answering_transport.h"
#include "core/encoding.h"

namespace token_refresh {
namespace {

constexpr std::string_view kToken = "fake/refresh";
constexpr Micros kNow = 1'700'000'000 * kSecond;

Provider SomeProvider() {
  Provider provider;
  provider.client_id = "client";
  provider.client_secret = Secret("fake");
  provider.options.token_endpoint = "https://as.example.com/token";
  provider.options.revocation_endpoint = "https://as.example.com/revoke";
  return provider;
}

RevocationVerdict Read(const HttpResponse& response) {
  return ReadRevocationAnswer(SomeProvider(), response, {kToken, "fake"}, kNow);
}

Result<HttpRequest> TryToBuild(const Provider& provider, std::string_view hint = "", bool previous_secret = false) {
  return BuildRevocationRequest(provider, Secret(kToken), hint, kNow, {}, previous_secret);
}

HttpRequest Build(const Provider& provider, std::string_view hint = "", bool previous_secret = false) {
  Result<HttpRequest> request = TryToBuild(provider, hint, previous_secret);
  EXPECT_TRUE(request.ok()) << request.error().message;
  return request.ok() ? *std::move(request) : HttpRequest();
}

TEST(RevocationTest, PostsTheTokenToTheRevocationEndpoint) {
  Provider provider = SomeProvider();
  provider.options.request_headers = {{"X-Tenant", "seven"}, {"X-At", "${now}"}, {"X-Of", "${subject}"}};
  const HttpRequest request = Build(provider, "refresh_token");
  EXPECT_EQ(request.method, "POST");
  EXPECT_EQ(request.url, "https://as.example.com/revoke");
  EXPECT_EQ(BodyOf(request), "token=fake%2Frefresh&token_type_hint=refresh_token");
  EXPECT_EQ(HeaderOf(request, "Authorization"), "Basic " + Base64Encode("client:fake"));
  EXPECT_EQ(HeaderOf(request, "X-Tenant"), "seven");
  EXPECT_EQ(HeaderOf(request, "X-At"), "1700000000");
  EXPECT_EQ(HeaderOf(request, "X-Of"), "(none)");
}

TEST(RevocationTest, HeadersHaveTheirValuesAndParametersTheirNames) {
  Provider provider = SomeProvider();
  provider.options.auth_method = ClientAuthMethod::kNone;
  provider.options.request_headers = {{"X-Client", "${client_id}"}, {"X-Dollar", "$${a"}, {"X-Subject", "${subject}"}};
  provider.options.request.param_names = {{"client_id", "client_key"}};
  const HttpRequest request = Build(provider);
  EXPECT_EQ(HeaderOf(request, "X-Client"), "client");
  EXPECT_EQ(HeaderOf(request, "X-Dollar"), "${a");
  // Of which credential this is, nobody knows here.
  EXPECT_EQ(HeaderOf(request, "X-Subject"), "(none)");
  EXPECT_EQ(BodyOf(request), "token=fake%2Frefresh&client_key=client");
}

TEST(RevocationTest, WithoutHintAndWithAPublicClient) {
  Provider provider = SomeProvider();
  provider.options.auth_method = ClientAuthMethod::kNone;
  const HttpRequest request = Build(provider);
  EXPECT_EQ(BodyOf(request), "token=fake%2Frefresh&client_id=client");
  EXPECT_EQ(HeaderOf(request, "Authorization"), "(none)");
}

TEST(RevocationTest, AKeyThatCannotBeUsed) {
  Provider provider = SomeProvider();
  provider.options.auth_method = ClientAuthMethod::kPrivateKeyJwt;
  const Result<HttpRequest> request = TryToBuild(provider);
  ASSERT_FALSE(request.ok());
  EXPECT_EQ(request.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(request.error().message.find("fake"), std::string::npos) << request.error().message;
}

TEST(RevocationTest, AnySuccessIsDone) {
  for (const int status : {200, 201, 204}) {
    const RevocationVerdict verdict = Read(MakeResponse(status, ""));
    EXPECT_EQ(verdict.outcome, RevocationOutcome::kDone);
    EXPECT_EQ(verdict.message, "");
  }
}

TEST(RevocationTest, ATokenThatIsNotKnownIsDead) {
  EXPECT_EQ(Read(MakeResponse(400, R"({"error":"invalid_token"})")).outcome, RevocationOutcome::kDone);
  EXPECT_EQ(Read(MakeResponse(400, "error=invalid_token")).outcome, RevocationOutcome::kDone);
  // Of another status it may be about the client's own.
  EXPECT_EQ(Read(MakeResponse(401, R"({"error":"invalid_token"})")).outcome, RevocationOutcome::kRetry);
  EXPECT_EQ(Read(MakeResponse(400, R"({"error":["invalid_token"]})")).outcome, RevocationOutcome::kRetry);
}

TEST(RevocationTest, RefusalsAreFinal) {
  const RevocationVerdict verdict =
      Read(MakeResponse(400, R"({"error":"unsupported_token_type","error_description":"no fake/refresh here"})"));
  EXPECT_EQ(verdict.outcome, RevocationOutcome::kRefused);
  EXPECT_EQ(verdict.message, "HTTP 400 unsupported_token_type: no [redacted] here");
  EXPECT_FALSE(verdict.retry_after.has_value());
}

// A secret that is being changed, a proxy, a page of maintenance.
TEST(RevocationTest, WhatDoesNotSpeakOfTheTokenIsTriedAgain) {
  for (const int status : {401, 403, 404, 405, 408, 425}) {
    const RevocationVerdict verdict = Read(MakeResponse(status, R"({"error":"unsupported_token_type"})"));
    EXPECT_EQ(verdict.outcome, RevocationOutcome::kRetry) << status;
    EXPECT_EQ(verdict.message, "HTTP " + std::to_string(status) + " unsupported_token_type");
  }
  for (const char* body : {R"({"error":"invalid_client"})", R"({"error":"temporarily_unavailable"})", "", "<html>"})
    EXPECT_EQ(Read(MakeResponse(400, body)).outcome, RevocationOutcome::kRetry) << body;
  EXPECT_EQ(Read(MakeResponse(404, "<html>")).message, "HTTP 404: the answer is a page of HTML or XML");
}

TEST(RevocationTest, WhatDecidesNothingIsTriedAgain) {
  for (const int status : {500, 502, 503, 429, 302, 199}) {
    const RevocationVerdict verdict = Read(MakeResponse(status, R"({"error":"invalid_token"})"));
    EXPECT_EQ(verdict.outcome, RevocationOutcome::kRetry) << status;
    EXPECT_FALSE(verdict.message.empty());
  }
  for (const TransportFailure failure : {TransportFailure::kNotSent, TransportFailure::kMaybeHandled,
                                         TransportFailure::kTooLarge, TransportFailure::kRefused}) {
    const RevocationVerdict verdict = Read(MakeTransportFailure(failure));
    EXPECT_EQ(verdict.outcome, RevocationOutcome::kRetry);
    EXPECT_EQ(verdict.message, "the connection was lost");
  }
}

TEST(RevocationTest, TheProviderMayNameATime) {
  for (const int status : {429, 503}) {
    HttpResponse response = MakeResponse(status, "");
    response.retry_after = "120";
    EXPECT_EQ(Read(response).retry_after, 120 * kSecond);
    response.retry_after = "soon";
    EXPECT_EQ(Read(response).retry_after, std::nullopt);
  }
}

// While the client's secret is being changed the provider knows one of the two.
TEST(RevocationTest, AClientThatIsRefusedMayHaveAnotherSecret) {
  Provider provider = SomeProvider();
  const HttpResponse refused = MakeResponse(401, R"({"error":"invalid_client"})");
  const auto read = [&](const HttpResponse& response) { return ReadRevocationAnswer(provider, response, {}, kNow); };
  EXPECT_FALSE(read(refused).other_secret);

  provider.previous_client_secret = Secret("former");
  EXPECT_TRUE(read(refused).other_secret);
  EXPECT_EQ(read(refused).outcome, RevocationOutcome::kRetry);
  EXPECT_TRUE(read(MakeResponse(400, R"({"error":"invalid_client"})")).other_secret);
  EXPECT_FALSE(read(MakeResponse(401, R"({"error":"invalid_token"})")).other_secret);
  EXPECT_FALSE(read(MakeResponse(503, R"({"error":"invalid_client"})")).other_secret);
  EXPECT_FALSE(read(MakeResponse(200, R"({"error":"invalid_client"})")).other_secret);
  const HttpRequest request = Build(provider, "", true);
  EXPECT_EQ(HeaderOf(request, "Authorization"), "Basic " + Base64Encode("client:former"));

  provider.previous_client_secret = provider.client_secret.Clone();
  EXPECT_FALSE(read(refused).other_secret);
  provider.previous_client_secret = Secret("former");
  provider.options.auth_method = ClientAuthMethod::kTlsClientAuth;
  EXPECT_FALSE(read(refused).other_secret);
}

}  // namespace
}  // namespace token_refresh
