// A provider that signs people in, and the sign-ins with it, in memory. For the tests of SignIns.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "answering_transport.h"
#include "core/authorization_url.h"
#include "core/sign_in.h"
#include "fake_clock.h"
#include "jose_keys.h"

namespace token_refresh {

class SignInFixture : public testing::Test {
 protected:
  static constexpr char kTokenUrl[] = "https://idp.example/token";
  static constexpr char kKeysUrl[] = "https://idp.example/jwks";
  static constexpr char kUserinfoUrl[] = "https://idp.example/me";
  static constexpr char kVerifier[] = "fake-verifier";
  static constexpr char kCode[] = "fake-code";

  SignInFixture() : sign_ins_(std::make_unique<SignIns>(transport_, clock_)) {
    provider_->name = "example";
    provider_->client_id = "client";
    provider_->client_secret = Secret("fake-client-secret");
    provider_->options.token_endpoint = kTokenUrl;
    provider_->options.issuer = "https://idp.example";
    provider_->options.jwks_uri = kKeysUrl;
    provider_->options.userinfo_endpoint = kUserinfoUrl;
  }

  SignInRequest Request(uint64_t id = 1) const {
    SignInRequest request;
    request.id = id;
    request.provider = provider_;
    request.code = Secret(kCode);
    request.code_verifier = Secret(kVerifier);
    request.redirect_uri = "https://app.example/cb";
    request.openid = true;
    request.claims_needed = true;
    return request;
  }

  // Without openid.
  SignInRequest PlainRequest() const {
    SignInRequest request = Request();
    request.openid = false;
    return request;
  }

  std::string Nonce() const { return *NonceFor(Secret(kVerifier)); }
  int64_t Seconds() const { return clock_.Now() / kSecond; }

  // Those of a good id_token; changes replace a member, add one, or, when null, remove one.
  std::string Claims(const nlohmann::json& changes = nlohmann::json::object()) const {
    nlohmann::json claims = {{"iss", "https://idp.example"}, {"sub", "u1"},     {"aud", "client"}, {"iat", Seconds()},
                             {"exp", Seconds() + 300},       {"nonce", Nonce()}};
    claims.merge_patch(changes);
    return claims.dump();
  }

  static std::string Sign(const SigningKey& key, const std::string& claims) { return *SignJwt(key, claims); }

  static std::string TokenAnswer(const std::string& id_token) {
    nlohmann::json answer = {{"access_token", "fake-access"}, {"refresh_token", "fake-refresh"}, {"expires_in", 3600}};
    if (!id_token.empty()) answer["id_token"] = id_token;
    return answer.dump();
  }

  static std::string Jwks(const std::vector<SigningKey>& keys) {
    std::vector<VerificationKey> public_keys;
    for (const SigningKey& key : keys) public_keys.push_back(key.verification_key());
    return PublicJwks(public_keys);
  }

  void AnswerToken(const std::string& id_token) {
    EXPECT_TRUE(transport_.Answer(kTokenUrl, 200, TokenAnswer(id_token)));
    sign_ins_->Turn();
  }
  void AnswerKeys(const std::string& jwks, int status = 200) {
    EXPECT_TRUE(transport_.Answer(kKeysUrl, status, jwks));
    sign_ins_->Turn();
  }

  SignInResult Finish() {
    sign_ins_->Turn();
    std::vector<SignInResult> finished = sign_ins_->TakeFinished();
    EXPECT_EQ(finished.size(), 1u);
    EXPECT_EQ(sign_ins_->unfinished(), 0u);
    if (finished.size() != 1) return {};
    Check(finished[0]);
    return std::move(finished[0]);
  }

  // What holds for every result.
  static void Check(const SignInResult& result) {
    EXPECT_EQ(result.accepted, result.failure.empty());
    EXPECT_EQ(result.accepted, result.message.empty());
    EXPECT_TRUE(result.accepted || result.claims.empty());
    for (const char* secret :
         {kCode, kVerifier, "fake-client-secret", "fake-access", "fake-refresh", "eyJ", "fake-id"}) {
      EXPECT_EQ(result.message.find(secret), std::string::npos) << result.message;
    }
  }

  // How a sign-in with this id_token ends: the word, or the claims. The tokens are there in any case.
  std::string Outcome(const std::string& id_token, const std::string& jwks) {
    sign_ins_ = std::make_unique<SignIns>(transport_, clock_);
    sign_ins_->Begin(Request());
    AnswerToken(id_token);
    AnswerKeys(jwks);
    SignInResult result = Finish();
    EXPECT_EQ(result.tokens.access_token.view(), "fake-access");
    EXPECT_EQ(result.tokens.refresh_token.view(), "fake-refresh");
    EXPECT_EQ(result.tokens.id_token.view(), id_token);
    return result.accepted ? result.claims : result.failure;
  }

  AnsweringTransport transport_;
  FakeClock clock_;
  std::shared_ptr<Provider> provider_ = std::make_shared<Provider>();
  std::unique_ptr<SignIns> sign_ins_;
};

}  // namespace token_refresh
