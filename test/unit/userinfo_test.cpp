#include "core/userinfo.h"

#include <gtest/gtest.h>

#include <string>

#include "answering_transport.h"

namespace token_refresh {
namespace {

constexpr std::string_view kAccess = "fake/access";

Provider SomeProvider(std::string subject_pointer = "/sub") {
  Provider provider;
  provider.client_id = "client";
  provider.options.userinfo_endpoint = "https://as.example.com/me";
  provider.options.subject_pointer = std::move(subject_pointer);
  return provider;
}

Result<std::string> Read(const HttpResponse& response, const Provider& provider = SomeProvider()) {
  return ReadUserinfo(provider, response, {kAccess}, 1'700'000'000 * kSecond);
}

// The claims, or why there are none.
std::string Claims(std::string_view body, std::string subject_pointer = "/sub") {
  const auto claims = Read(MakeResponse(200, body), SomeProvider(std::move(subject_pointer)));
  return claims ? *claims : claims.error().message;
}

const char kNobody[] = "the answer does not say who it is: subject_pointer finds nothing in it";
const char kNoObject[] = "the answer is not a JSON object without a name twice";

TEST(UserinfoTest, AsksWithTheToken) {
  Provider provider = SomeProvider();
  provider.options.request_headers = {{"Version", "7"}, {"authorization", "Basic eA=="}};
  const HttpRequest request = BuildUserinfoRequest(provider, Secret(kAccess), {});
  EXPECT_EQ(request.method, "GET");
  EXPECT_EQ(request.url, "https://as.example.com/me");
  EXPECT_EQ(BodyOf(request), "");
  EXPECT_EQ(HeaderOf(request, "Accept"), "application/json");
  EXPECT_EQ(HeaderOf(request, "Version"), "7");
  // What is always sent to the provider is not what a user's token is sent with.
  EXPECT_EQ(HeaderOf(request, "authorization"), "Bearer fake/access");
  EXPECT_EQ(HeaderOf(request, "Authorization"), "(none)");
}

TEST(UserinfoTest, ClaimsStayAsTheyCame) {
  const char body[] = R"( {"sub": "u1", "age": 1.50, "b": [null, true]} )";
  EXPECT_EQ(Claims(body), body);
}

TEST(UserinfoTest, TheSubjectIsWhereTheProviderSays) {
  EXPECT_EQ(Claims(R"({"id":"u1"})", "/id"), R"({"id":"u1","sub":"u1"})");
  EXPECT_EQ(Claims(R"({"id":12345678901234567})", "/id"), R"({"id":12345678901234567,"sub":"12345678901234567"})");
  EXPECT_EQ(Claims(R"({"data":{"user":{"id":-7}}})", "/data/user/id"), R"({"data":{"user":{"id":-7}},"sub":"-7"})");
  EXPECT_EQ(Claims(R"({"sub":42})"), R"({"sub":"42"})");
}

TEST(UserinfoTest, ThePointerDecidesWhenThereAreTwo) {
  EXPECT_EQ(Claims(R"({"id":"u1","sub":"other"})", "/id"), R"({"id":"u1","sub":"u1"})");
}

TEST(UserinfoTest, NobodyHasNoClaims) {
  for (const char* body :
       {"{}", R"({"id":"u1"})", R"({"sub":""})", R"({"sub":null})", R"({"sub":1.5})", R"({"sub":true})",
        R"({"sub":["u1"]})", R"({"sub":{"a":"u1"}})", R"({"sub":99999999999999999999})"}) {
    EXPECT_EQ(Claims(body), kNobody) << body;
  }
  EXPECT_EQ(Claims(R"({"sub":"u1"})", "/id"), kNobody);
}

TEST(UserinfoTest, OnlyOneReadingOfTheAnswer) {
  for (const char* body : {"", "null", "[]", "\"u1\"", "<html>", "sub=u1", R"({"sub":"u1"} x)", R"({"sub":"u1",})",
                           R"({"sub":"u1","sub":"u2"})", R"({"sub":"u1","a":{"b":1,"b":2}})", "{\"sub\":\"\xFF\"}",
                           R"({"sub":"u1\u0000"})"}) {
    EXPECT_EQ(Claims(body), kNoObject) << body;
  }
}

TEST(UserinfoTest, ASignedAnswerIsRefused) {
  HttpResponse response = MakeResponse(200, R"({"sub":"u1"})");
  response.content_type = "application/jwt";
  const auto claims = Read(response);
  ASSERT_FALSE(claims);
  EXPECT_EQ(claims.error().code, ErrorCode::kInvalidArgument);
  EXPECT_TRUE(claims.error().message.starts_with("the answer is a signed JWT"));
}

TEST(UserinfoTest, RefusalsAreToldWithoutTheToken) {
  for (const int status : {200, 400, 401, 403}) {
    const auto claims =
        Read(MakeResponse(status, R"({"error":"invalid_token","error_description":"fake/access is over","sub":"u1"})"));
    ASSERT_FALSE(claims);
    EXPECT_EQ(claims.error().code, ErrorCode::kInvalidArgument);
    EXPECT_EQ(claims.error().message, "HTTP " + std::to_string(status) + " invalid_token: [redacted] is over");
  }
  EXPECT_EQ(Claims(R"({"ok":false,"error":"missing_scope"})"), "HTTP 200 missing_scope");
  EXPECT_EQ(Read(MakeResponse(404, "{}")).error().message, "HTTP 404: not an answer that a userinfo endpoint gives");
}

TEST(UserinfoTest, AnotherTryMayHelp) {
  for (const int status : {429, 500, 503}) {
    const auto claims = Read(MakeResponse(status, R"({"sub":"u1"})"));
    ASSERT_FALSE(claims);
    EXPECT_EQ(claims.error().code, ErrorCode::kUnavailable);
  }
  const auto claims = Read(MakeTransportFailure(TransportFailure::kMaybeHandled));
  ASSERT_FALSE(claims);
  EXPECT_EQ(claims.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(claims.error().message, "the connection was lost");
}

}  // namespace
}  // namespace token_refresh
