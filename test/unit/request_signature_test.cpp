#include "core/request_signature.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "answering_transport.h"
#include "core/encoding.h"
#include "core/token_request.h"
#include "option_parsing.h"

namespace token_refresh {
namespace {

using testing::HasSubstr;

constexpr Micros kNow = 1'700'000'000'123 * kMillisecond;

Provider SomeProvider(std::string_view options) {
  Provider provider;
  provider.client_id = "app-1";
  provider.client_secret = Secret("fake-secret");
  provider.previous_client_secret = Secret("former-fake-secret");
  provider.options = ParsedOptions(options);
  return provider;
}

HttpRequest Build(const Provider& provider, bool previous_secret = false) {
  RefreshInput input{"fake/token", "user-7", kNow};
  input.previous_secret = previous_secret;
  Result<HttpRequest> request = BuildRefreshRequest(provider, input, {});
  if (!request) {
    ADD_FAILURE() << request.error().message;
    return {};
  }
  return *std::move(request);
}

std::string Hmac(std::string_view key, std::string_view text) { return HexEncode(BytesOf(*HmacSha256(key, text))); }

std::string Options(std::string_view more) {
  return R"({"token_endpoint": "https://as.example.com/token", "token_endpoint_auth_method": "none", )" +
         std::string(more) + "}";
}

TEST(RequestSignatureTest, SignsTheBodyThatIsSent) {
  const HttpRequest request = Build(SomeProvider(Options(
      R"("request_format": "json", "request_signature": {"text": "${body}${now_ms}"},
         "request_headers": {"sign": "${signature}", "timestamp": "${now_ms}"})")));
  EXPECT_EQ(BodyOf(request), R"({"grant_type":"refresh_token","refresh_token":"fake/token","client_id":"app-1"})");
  EXPECT_EQ(HeaderOf(request, "timestamp"), "1700000000123");
  EXPECT_EQ(HeaderOf(request, "sign"), Hmac("fake-secret", BodyOf(request) + "1700000000123"));
}

TEST(RequestSignatureTest, AnEmptyBodyIsSignedToo) {
  const HttpRequest request = Build(SomeProvider(Options(
      R"("request_signature": {"text": "${body}${now_ms}"}, "refresh_with": "nothing", "grant_type": "renew",
         "request_params": {"grant_type": null, "client_id": null}, "request_headers": {"sign": "${signature}"})")));
  EXPECT_EQ(BodyOf(request), "");
  EXPECT_EQ(HeaderOf(request, "sign"), Hmac("fake-secret", "1700000000123"));
}

TEST(RequestSignatureTest, StandsInAParameter) {
  const HttpRequest request = Build(SomeProvider(Options(
      R"("param_names": {"client_id": "app_key"}, "request_signature": {"encoding": "hex_upper",
           "text": "/auth/token/refreshapp_key${client_id}refresh_token${token}sign_methodsha256timestamp${now_ms}"},
         "request_params": {"grant_type": null, "sign": "${signature}"})")));
  std::string expected = Hmac("fake-secret",
                              "/auth/token/refreshapp_keyapp-1refresh_tokenfake/tokensign_methodsha256"
                              "timestamp1700000000123");
  for (char& c : expected) c = static_cast<char>(std::toupper(c));
  EXPECT_EQ(BodyOf(request), "refresh_token=fake%2Ftoken&app_key=app-1&sign=" + expected);
}

TEST(RequestSignatureTest, StandsInTheAddress) {
  const HttpRequest request =
      Build(SomeProvider(Options(R"("refresh_endpoint": "https://as.example.com/renew?t=${now}&sign=${signature}",
                 "request_signature": {"text": "${client_id}/renew${now}", "encoding": "base64"})")));
  const std::string mac = Base64Encode(BytesOf(*HmacSha256("fake-secret", "app-1/renew1700000000")));
  std::string escaped;
  for (const char c : mac) escaped += c == '+' ? "%2B" : c == '/' ? "%2F" : c == '=' ? "%3D" : std::string(1, c);
  EXPECT_EQ(request.url, "https://as.example.com/renew?t=1700000000&sign=" + escaped);
}

TEST(RequestSignatureTest, TheKeyIsATemplateAndFollowsTheSecretInUse) {
  const Provider provider = SomeProvider(Options(
      R"("request_signature": {"text": "x", "key": "${client_secret}&${client_id}"},
         "request_headers": {"sign": "v1=${signature}"})"));
  EXPECT_EQ(HeaderOf(Build(provider), "sign"), "v1=" + Hmac("fake-secret&app-1", "x"));
  EXPECT_EQ(HeaderOf(Build(provider, true), "sign"), "v1=" + Hmac("former-fake-secret&app-1", "x"));
}

TEST(RequestSignatureTest, WithoutAKeyItIsAPlainHash) {
  const Provider provider = SomeProvider(Options(
      R"("request_signature": {"text": "${client_secret}|${token}", "key": ""}, "request_params": {"hash": "${signature}"})"));
  EXPECT_EQ(BodyOf(Build(provider)), "grant_type=refresh_token&refresh_token=fake%2Ftoken&client_id=app-1&hash=" +
                                         HexEncode(BytesOf(*Sha256("fake-secret|fake/token"))));
  EXPECT_EQ(RefusedOptions(
                Options(R"("request_signature": {"text": "x", "key": ""}, "request_headers": {"s": "${signature}"})"))
                .message,
            "option \"request_signature.text\" must hold ${client_secret}");
}

TEST(RequestSignatureTest, AlternativesAreTakenInTheirOrder) {
  const auto signature = [](std::string_view text) {
    return HeaderOf(Build(SomeProvider(Options(R"("captured_fields": ["shop"], "request_headers": {"s": "${signature}"},
                        "request_signature": {"text": ")" +
                                               std::string(text) + "\"}"))),
                    "s");
  };
  EXPECT_EQ(signature("${shop||token}"), Hmac("fake-secret", "fake/token"));
  EXPECT_EQ(signature("${subject||token}"), Hmac("fake-secret", "user-7"));
  EXPECT_EQ(signature("${token||subject}"), Hmac("fake-secret", "fake/token"));
}

TEST(RequestSignatureTest, WhatPresentsNothingHasNoToken) {
  const Provider provider = SomeProvider(
      Options(R"("grant_type": "renew", "refresh_with": "nothing", "request_headers": {"s": "${signature}"},
                 "request_signature": {"text": "${token}"})"));
  const Result<HttpRequest> request = BuildRefreshRequest(provider, {"a mark", "user-7", kNow}, {});
  ASSERT_FALSE(request.ok());
  EXPECT_EQ(request.error().message, "there is no value for ${token}");
}

TEST(RequestSignatureTest, SeveralLinesCanBeSigned) {
  const Provider provider = SomeProvider(
      Options(R"("request_headers": {"s": "${signature}"}, "request_signature": {"text": "POST\n${now}"})"));
  EXPECT_EQ(HeaderOf(Build(provider), "s"), Hmac("fake-secret", "POST\n1700000000"));
  EXPECT_EQ(
      RefusedOptions(Options(R"("request_headers": {"s": "${signature}"}, "request_signature": {"text": "a\tb"})"))
          .message,
      "option \"request_signature.text\" must not hold control characters");
}

TEST(RequestSignatureTest, AMissingValueIsNamedAndNothingIsSent) {
  const Provider provider = SomeProvider(Options(
      R"("captured_fields": ["shop"], "request_signature": {"text": "${shop}"}, "request_headers": {"s": "${signature}"})"));
  const Result<HttpRequest> request = BuildRefreshRequest(provider, {"fake", "user-7", kNow}, {});
  ASSERT_FALSE(request.ok());
  EXPECT_EQ(request.error().message, "there is no value for ${shop}");
}

TEST(RequestSignatureTest, OptionsThatMakeNoSense) {
  const auto refusal = [](std::string_view more) {
    const Error error = RefusedOptions(Options(more));
    return error.message + "|" + error.hint;
  };
  const std::string used = R"(, "request_headers": {"s": "${signature}"})";
  EXPECT_THAT(refusal(R"("request_signature": {"text": "x"})"), HasSubstr("of no use: nothing holds ${signature}"));
  EXPECT_THAT(refusal(R"("request_signature": {})" + used), HasSubstr("needs a member \"text\""));
  EXPECT_THAT(refusal(R"("request_signature": {"txt": "x"})" + used), HasSubstr("Did you mean \"text\"?"));
  EXPECT_THAT(refusal(R"("request_signature": {"text": 7})" + used),
              HasSubstr("\"request_signature.text\" must be text, not a number"));
  EXPECT_THAT(refusal(R"("request_signature": {"text": "x", "encoding": "HEX"})" + used),
              HasSubstr(R"(must be "hex", "hex_upper" or "base64", not "HEX")"));
  EXPECT_THAT(refusal(R"("request_signature": {"text": "${bdy}"})" + used), HasSubstr("Did you mean ${body}?"));
  EXPECT_THAT(refusal(R"("request_signature": {"text": "${signature}"})" + used), HasSubstr("has no meaning"));
  EXPECT_THAT(refusal(R"("request_signature": {"text": "x", "key": "${client_id}"})" + used),
              HasSubstr("must hold ${client_secret}"));
  EXPECT_THAT(refusal(R"("request_signature": {"text": "${body}"}, "request_params": {"s": "${signature}"})"),
              HasSubstr("What signs the body can only stand in request_headers"));
  EXPECT_THAT(refusal(R"("request_signature": {"text": "x"}, "assertion_audience": "${signature}",
                         "token_endpoint_auth_method": "client_secret_jwt")" +
                      used),
              HasSubstr("must not hold ${signature}"));
  EXPECT_THAT(refusal(R"("expiry_source": "introspection", "introspection_endpoint": "https://as.example.com/look",
                         "request_signature": {"text": "x"})" +
                      used),
              HasSubstr("cannot be used with option \"expiry_source\""));
  EXPECT_THAT(refusal(R"("request_params": {"s": "${signature}"})"), HasSubstr("needs option \"request_signature\""));
  EXPECT_THAT(refusal(R"("variables": {"body": "b"}, "request_signature": {"text": "${body}"})" + used),
              HasSubstr("\"variables\" must not hold \"body\""));
  EXPECT_THAT(RefusedOptions(R"({"token_endpoint_auth_method": "private_key_jwt", "request_signature": {"text": "x"})" +
                             used + "}")
                  .message,
              HasSubstr("private key"));
}

TEST(RequestSignatureTest, NeedsASecretWhateverTheMethod) {
  const ProviderOptions options =
      ParsedOptions(Options(R"("request_signature": {"text": "x"}, "request_headers": {"s": "${signature}"})"));
  EXPECT_TRUE(CheckProviderClient(options, true, true).ok());
  EXPECT_EQ(CheckProviderClient(options, true, false).error().message,
            "client_secret is needed with option \"request_signature\"");
}

}  // namespace
}  // namespace token_refresh
