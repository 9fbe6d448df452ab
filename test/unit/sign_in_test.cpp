#include "core/sign_in.h"

#include "sign_in_fixture.h"

namespace token_refresh {
namespace {

using SignInTest = SignInFixture;

TEST_F(SignInTest, ACodeBecomesTokensAndClaims) {
  sign_ins_->Begin(Request(7));
  const HttpRequest* request = transport_.Find(kTokenUrl);
  ASSERT_NE(request, nullptr);
  EXPECT_EQ(BodyOf(*request),
            "grant_type=authorization_code&code=fake-code&redirect_uri=https%3A%2F%2Fapp.example%2Fcb&"
            "code_verifier=fake-verifier");
  EXPECT_EQ(sign_ins_->unfinished(), 1u);
  clock_.Advance(kSecond);
  const std::string claims = Claims();
  const std::string id_token = Sign(Rs256(), claims);
  AnswerToken(id_token);
  ASSERT_NE(transport_.Find(kKeysUrl), nullptr);
  EXPECT_EQ(transport_.Find(kKeysUrl)->method, "GET");
  EXPECT_EQ(HeaderOf(*transport_.Find(kKeysUrl), "Authorization"), "(none)");
  EXPECT_TRUE(sign_ins_->TakeFinished().empty());
  clock_.Advance(kSecond);
  AnswerKeys(Jwks({Rs256()}));

  const SignInResult result = Finish();
  EXPECT_EQ(result.id, 7u);
  EXPECT_TRUE(result.accepted) << result.message;
  EXPECT_EQ(result.claims, claims);
  EXPECT_EQ(result.tokens.access_token.view(), "fake-access");
  EXPECT_EQ(result.tokens.refresh_token.view(), "fake-refresh");
  EXPECT_EQ(result.tokens.id_token.view(), id_token);
  EXPECT_EQ(result.tokens.expires_in, kHour);
  EXPECT_EQ(result.duration, 2 * kSecond);
  EXPECT_EQ(transport_.CountOf(kUserinfoUrl), 0u);
}

TEST_F(SignInTest, EveryAsymmetricAlgorithmWillDo) {
  for (const SigningKey& key : {Rs256(), Ps256(), Es256(), EdDsa()}) {
    EXPECT_EQ(Outcome(Sign(key, Claims()), Jwks({key})), Claims());
  }
}

TEST_F(SignInTest, WithoutPkceTheVerifierStaysAtHome) {
  SignInRequest request = Request();
  request.use_pkce = false;
  sign_ins_->Begin(std::move(request));
  EXPECT_EQ(BodyOf(*transport_.Find(kTokenUrl)).find("code_verifier"), std::string::npos);
  // The nonce is still made of it.
  AnswerToken(Sign(EdDsa(), Claims()));
  AnswerKeys(Jwks({EdDsa()}));
  EXPECT_TRUE(Finish().accepted);
}

TEST_F(SignInTest, TokensAloneWhenNoClaimsAreNeeded) {
  SignInRequest request = PlainRequest();
  request.claims_needed = false;
  sign_ins_->Begin(std::move(request));
  AnswerToken("");
  const SignInResult result = Finish();
  EXPECT_TRUE(result.accepted);
  EXPECT_EQ(result.claims, "");
  EXPECT_EQ(result.tokens.access_token.view(), "fake-access");
  EXPECT_EQ(transport_.urls.size(), 1u);
}

TEST_F(SignInTest, AnIdTokenIsVerifiedAlsoWhenNoClaimsAreNeeded) {
  SignInRequest request = Request();
  request.claims_needed = false;
  sign_ins_->Begin(std::move(request));
  AnswerToken(Sign(EdDsa(), Claims({{"nonce", "another"}})));
  AnswerKeys(Jwks({EdDsa()}));
  EXPECT_EQ(Finish().failure, "id_token_wrong_nonce");
}

// ---- the code

TEST_F(SignInTest, ARefusedCode) {
  sign_ins_->Begin(Request());
  transport_.Answer(kTokenUrl, 400, R"({"error":"invalid_grant","error_description":"fake-code fake-verifier"})");
  const SignInResult result = Finish();
  EXPECT_EQ(result.failure, "provider_refused");
  EXPECT_EQ(result.message,
            "the token endpoint gave no tokens for the code: HTTP 400 invalid_grant: [redacted] [redacted]"
            "; a code is presented only once, so the user has to begin again");
  EXPECT_EQ(result.duration, 0);
}

TEST_F(SignInTest, ACodeThatCannotBeSent) {
  provider_->options.auth_method = ClientAuthMethod::kPrivateKeyJwt;
  sign_ins_->Begin(Request());
  const SignInResult result = Finish();
  EXPECT_EQ(result.failure, "internal");
  EXPECT_EQ(result.message.find("the code cannot be sent: "), 0u) << result.message;
  EXPECT_TRUE(transport_.urls.empty());
  EXPECT_EQ(sign_ins_->unfinished(), 0u);
}

TEST_F(SignInTest, ACodeIsPresentedOnce) {
  for (const TransportFailure failure : {TransportFailure::kNotSent, TransportFailure::kMaybeHandled,
                                         TransportFailure::kTooLarge, TransportFailure::kRefused}) {
    const size_t before = transport_.urls.size();
    sign_ins_->Begin(Request());
    transport_.Answer(kTokenUrl, MakeTransportFailure(failure));
    const SignInResult result = Finish();
    EXPECT_EQ(result.failure, "provider_unavailable");
    EXPECT_NE(result.message.find("begin again"), std::string::npos);
    clock_.Advance(kDay);
    sign_ins_->Turn();
    EXPECT_EQ(transport_.urls.size(), before + 1);
  }
  for (const int status : {500, 503, 429}) {
    sign_ins_->Begin(Request());
    transport_.Answer(kTokenUrl, status, R"({"error":"invalid_grant"})");
    EXPECT_EQ(Finish().failure, "provider_unavailable") << status;
  }
}

TEST_F(SignInTest, ARefusalWithASuccessStatus) {
  sign_ins_->Begin(Request());
  transport_.Answer(kTokenUrl, 200, R"({"ok":false,"error":"invalid_code"})");
  EXPECT_EQ(Finish().failure, "provider_refused");
}

TEST_F(SignInTest, AnUnusableAnswer) {
  for (const char* body : {"", "<html>", "{}", R"({"access_token":7})"}) {
    sign_ins_->Begin(Request());
    transport_.Answer(kTokenUrl, 200, body);
    EXPECT_EQ(Finish().failure, "answer_unusable") << body;
  }
  sign_ins_->Begin(Request());
  transport_.Answer(kTokenUrl, 200, R"({"refresh_token":"fake-refresh"})");
  const SignInResult result = Finish();
  EXPECT_EQ(result.failure, "answer_unusable");
  // It can be revoked.
  EXPECT_EQ(result.tokens.refresh_token.view(), "fake-refresh");
  EXPECT_TRUE(result.tokens.access_token.empty());
}

// ---- userinfo

TEST_F(SignInTest, WithoutOpenidTheUserinfoEndpointIsAsked) {
  sign_ins_->Begin(PlainRequest());
  // An id_token that nobody asked for says nothing: its nonce cannot be checked.
  AnswerToken("fake-id-token");
  ASSERT_NE(transport_.Find(kUserinfoUrl), nullptr);
  EXPECT_EQ(HeaderOf(*transport_.Find(kUserinfoUrl), "Authorization"), "Bearer fake-access");
  transport_.Answer(kUserinfoUrl, 200, R"({"sub":"u1"})");
  const SignInResult result = Finish();
  EXPECT_TRUE(result.accepted);
  EXPECT_EQ(result.claims, R"({"sub":"u1"})");
  EXPECT_EQ(result.tokens.access_token.view(), "fake-access");
  EXPECT_EQ(transport_.CountOf(kKeysUrl), 0u);
}

TEST_F(SignInTest, AProviderWhoseIdTokensCannotBeVerifiedIsAskedForUserinfo) {
  for (std::string ProviderOptions::*missing : {&ProviderOptions::issuer, &ProviderOptions::jwks_uri}) {
    const std::string was = std::exchange(provider_->options.*missing, "");
    sign_ins_->Begin(Request());
    AnswerToken(Sign(EdDsa(), Claims()));
    transport_.Answer(kUserinfoUrl, 200, R"({"sub":"u2"})");
    EXPECT_EQ(Finish().claims, R"({"sub":"u2"})");
    provider_->options.*missing = was;
  }
}

TEST_F(SignInTest, UserinfoFails) {
  sign_ins_->Begin(PlainRequest());
  AnswerToken("");
  transport_.Answer(kUserinfoUrl, 401, R"({"error":"invalid_token","error_description":"fake-access is unknown"})");
  SignInResult result = Finish();
  EXPECT_EQ(result.failure, "userinfo_failed");
  EXPECT_EQ(result.message,
            "the userinfo endpoint does not say who it is: HTTP 401 invalid_token: [redacted] is unknown");
  EXPECT_EQ(result.tokens.access_token.view(), "fake-access");
  sign_ins_->Begin(PlainRequest());
  AnswerToken("");
  transport_.Answer(kUserinfoUrl, 200, "{}");
  EXPECT_EQ(Finish().failure, "userinfo_failed");
  sign_ins_->Begin(PlainRequest());
  AnswerToken("");
  transport_.Answer(kUserinfoUrl, 503, "");
  EXPECT_EQ(Finish().failure, "userinfo_unavailable");
}

TEST_F(SignInTest, NobodyCanSayWhoItIs) {
  provider_->options.userinfo_endpoint.clear();
  sign_ins_->Begin(PlainRequest());
  AnswerToken("");
  const SignInResult result = Finish();
  EXPECT_EQ(result.failure, "no_claims");
  EXPECT_EQ(result.tokens.refresh_token.view(), "fake-refresh");
}

// ---- the end

TEST_F(SignInTest, DrainingPresentsNoMoreCodes) {
  sign_ins_ = std::make_unique<SignIns>(transport_, clock_, 1);
  sign_ins_->Begin(Request(1));
  sign_ins_->Begin(Request(2));
  sign_ins_->Drain();
  sign_ins_->Begin(Request(3));
  sign_ins_->Turn();
  std::vector<SignInResult> held_back = sign_ins_->TakeFinished();
  ASSERT_EQ(held_back.size(), 2u);
  for (const SignInResult& result : held_back) {
    Check(result);
    EXPECT_EQ(result.failure, "shutting_down");
    EXPECT_NE(result.id, 1u);
  }
  // What was on its way goes on.
  AnswerToken(Sign(EdDsa(), Claims()));
  AnswerKeys(Jwks({EdDsa()}));
  EXPECT_TRUE(Finish().accepted);
  EXPECT_EQ(transport_.CountOf(kTokenUrl), 1u);
}

TEST_F(SignInTest, AbandonedOnesHandTheirTokensBack) {
  sign_ins_->Begin(Request(1));
  AnswerToken(Sign(EdDsa(), Claims()));
  sign_ins_->Begin(Request(2));
  sign_ins_->Abandon();
  EXPECT_EQ(sign_ins_->unfinished(), 0u);
  const std::vector<SignInResult> abandoned = sign_ins_->TakeFinished();
  ASSERT_EQ(abandoned.size(), 2u);
  for (const SignInResult& result : abandoned) {
    Check(result);
    EXPECT_EQ(result.failure, "shutting_down");
    EXPECT_EQ(result.tokens.access_token.empty(), result.id == 2);
  }
  // What is answered afterwards finds nobody.
  AnswerToken(Sign(EdDsa(), Claims()));
  AnswerKeys(Jwks({EdDsa()}));
  EXPECT_TRUE(sign_ins_->TakeFinished().empty());
}

TEST_F(SignInTest, DefaultsHoldForEveryRequest) {
  HttpDefaults defaults;
  defaults.timeout = 3 * kSecond;
  sign_ins_->Configure(defaults);
  sign_ins_->Begin(Request());
  EXPECT_EQ(transport_.Find(kTokenUrl)->timeout, 3 * kSecond);
  AnswerToken(Sign(EdDsa(), Claims()));
  EXPECT_EQ(transport_.Find(kKeysUrl)->timeout, 3 * kSecond);
  sign_ins_->Begin(PlainRequest());
  AnswerToken("");
  EXPECT_EQ(transport_.Find(kUserinfoUrl)->timeout, 3 * kSecond);
}

TEST_F(SignInTest, TheFirstRefreshTokenIsNotIgnored) {
  provider_->options.keep_refresh_token = true;
  SignInRequest request = PlainRequest();
  request.claims_needed = false;
  sign_ins_->Begin(std::move(request));
  AnswerToken("");
  EXPECT_EQ(Finish().tokens.refresh_token.view(), "fake-refresh");
}

// A provider gets as many places as are left to the others.
TEST_F(SignInTest, NoProviderTakesTheLastPlace) {
  sign_ins_ = std::make_unique<SignIns>(transport_, clock_, 8);
  const auto begin_all = [&](const char* name) {
    auto provider = std::make_shared<Provider>();
    provider->name = name;
    provider->options.token_endpoint = kTokenUrl;
    int begun = 0;
    for (; sign_ins_->HasRoomFor(*provider); ++begun) {
      SignInRequest request = PlainRequest();
      request.provider = provider;
      request.claims_needed = false;
      sign_ins_->Begin(std::move(request));
    }
    return begun;
  };
  EXPECT_EQ(begin_all("a"), 4);
  EXPECT_EQ(begin_all("b"), 2);
  EXPECT_EQ(begin_all("c"), 1);
  EXPECT_EQ(begin_all("a"), 0);
  for (int i = 0; i < 4; ++i) AnswerToken("");
  EXPECT_EQ(begin_all("b"), 2);
  EXPECT_EQ(begin_all("a"), 2);
}

TEST_F(SignInTest, AProviderMayHaveALimitOfItsOwn) {
  provider_->options.max_in_flight = 1;
  EXPECT_TRUE(sign_ins_->HasRoomFor(*provider_));
  sign_ins_->Begin(Request());
  EXPECT_FALSE(sign_ins_->HasRoomFor(*provider_));
  AnswerToken("");
  EXPECT_TRUE(sign_ins_->HasRoomFor(*provider_));
}

TEST_F(SignInTest, IdsMayRepeat) {
  SignInRequest request = PlainRequest();
  request.claims_needed = false;
  sign_ins_->Begin(std::move(request));
  request = PlainRequest();
  request.claims_needed = false;
  sign_ins_->Begin(std::move(request));
  AnswerToken("");
  AnswerToken("");
  EXPECT_EQ(sign_ins_->TakeFinished().size(), 2u);
}

}  // namespace
}  // namespace token_refresh
