// How sign-ins come by the keys that verify their id_tokens.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/jwks_cache.h"
#include "core/openssl_handles.h"
#include "sign_in_fixture.h"

namespace token_refresh {
namespace {

using SignInKeysTest = SignInFixture;

TEST_F(SignInKeysTest, ManySignInsShareOneFetch) {
  for (uint64_t id = 1; id <= 20; ++id) sign_ins_->Begin(Request(id));
  for (int i = 0; i < 20; ++i) AnswerToken(Sign(EdDsa(), Claims()));
  EXPECT_EQ(transport_.CountOf(kKeysUrl), 1u);
  AnswerKeys(Jwks({EdDsa()}));
  const std::vector<SignInResult> finished = sign_ins_->TakeFinished();
  ASSERT_EQ(finished.size(), 20u);
  for (const SignInResult& result : finished) EXPECT_TRUE(result.accepted);
  // The next one finds them in the cache.
  sign_ins_->Begin(Request());
  AnswerToken(Sign(EdDsa(), Claims()));
  EXPECT_TRUE(Finish().accepted);
  EXPECT_EQ(transport_.CountOf(kKeysUrl), 1u);
}

TEST_F(SignInKeysTest, KeysOfAnotherTrustAreOtherKeys) {
  EXPECT_EQ(Outcome(Sign(EdDsa(), Claims()), Jwks({EdDsa()})), Claims());
  // The same jwks_uri, fetched over a CA of somebody's own.
  const ProviderOptions options = provider_->options;
  provider_ = std::make_shared<Provider>();
  provider_->name = "other";
  provider_->client_id = "client";
  provider_->client_secret = Secret("fake-client-secret");
  provider_->options = options;
  provider_->options.ca_file = "/tmp/own.pem";
  sign_ins_->Begin(Request());
  AnswerToken(Sign(EdDsa(), Claims()));
  ASSERT_NE(transport_.Find(kKeysUrl), nullptr);
  EXPECT_EQ(transport_.Find(kKeysUrl)->ca_file, "/tmp/own.pem");
}

TEST_F(SignInKeysTest, RotatedKeysAreFetchedAgain) {
  EXPECT_EQ(Outcome(Sign(EdDsa("old"), Claims()), Jwks({EdDsa("old")})), Claims());
  clock_.Advance(kMinute);
  sign_ins_->Begin(Request());
  AnswerToken(Sign(Rs256("new"), Claims()));
  EXPECT_EQ(transport_.CountOf(kKeysUrl), 2u);
  AnswerKeys(Jwks({EdDsa("old"), Rs256("new")}));
  EXPECT_TRUE(Finish().accepted);
}

TEST_F(SignInKeysTest, KeysThatAreReplacedUnderTheirNameAreFetchedAgain) {
  EXPECT_EQ(Outcome(Sign(Rs256("k"), Claims()), Jwks({Rs256("k")})), Claims());
  clock_.Advance(kMinute);
  const SigningKey other = Signer(SigningKey::FromPem(PrivatePem(Pkey(EVP_RSA_gen(2048)).get()), std::nullopt, "k"));
  sign_ins_->Begin(Request());
  AnswerToken(Sign(other, Claims()));
  AnswerKeys(Jwks({other}));
  EXPECT_TRUE(Finish().accepted);
}

TEST_F(SignInKeysTest, AnUnknownKeyIsNotAskedForAllTheTime) {
  EXPECT_EQ(Outcome(Sign(EdDsa("known"), Claims()), Jwks({EdDsa("known")})), Claims());
  for (int i = 0; i < 4; ++i) {
    clock_.Advance(JwksCache::kUnknownKeyHold / 5);
    sign_ins_->Begin(Request());
    AnswerToken(Sign(EdDsa("unknown"), Claims()));
  }
  EXPECT_EQ(transport_.CountOf(kKeysUrl), 1u);
  EXPECT_EQ(sign_ins_->unfinished(), 4u);
  EXPECT_EQ(sign_ins_->NextTurnAt(), clock_.Now() + JwksCache::kUnknownKeyHold / 5);
  clock_.Advance(JwksCache::kUnknownKeyHold / 5);
  sign_ins_->Turn();
  EXPECT_EQ(sign_ins_->NextTurnAt(), INT64_MAX);
  AnswerKeys(Jwks({EdDsa("known")}));
  const std::vector<SignInResult> finished = sign_ins_->TakeFinished();
  ASSERT_EQ(finished.size(), 4u);
  for (const SignInResult& result : finished) EXPECT_EQ(result.failure, "id_token_unknown_key");
  EXPECT_EQ(transport_.CountOf(kKeysUrl), 2u);
}

TEST_F(SignInKeysTest, AKeyThatIsPublishedRightAfterAFetchIsWaitedFor) {
  EXPECT_EQ(Outcome(Sign(EdDsa("old"), Claims()), Jwks({EdDsa("old")})), Claims());
  sign_ins_->Begin(Request());
  AnswerToken(Sign(EdDsa("new"), Claims()));
  clock_.Advance(JwksCache::kUnknownKeyHold);
  sign_ins_->Turn();
  AnswerKeys(Jwks({EdDsa("new")}));
  EXPECT_TRUE(Finish().accepted);
}

TEST_F(SignInKeysTest, WithoutKeysNobodySignsIn) {
  for (const auto& [status, body] :
       {std::pair(500, "{}"), std::pair(404, ""), std::pair(200, "<html>"), std::pair(302, "")}) {
    sign_ins_->Begin(Request());
    AnswerToken(Sign(EdDsa(), Claims()));
    AnswerKeys(body, status);
    const SignInResult result = Finish();
    EXPECT_EQ(result.failure, "keys_unavailable") << status;
    EXPECT_EQ(result.tokens.refresh_token.view(), "fake-refresh");
  }
  sign_ins_->Begin(Request());
  AnswerToken(Sign(EdDsa(), Claims()));
  transport_.Answer(kKeysUrl, MakeTransportFailure(TransportFailure::kNotSent));
  const SignInResult result = Finish();
  EXPECT_EQ(result.failure, "keys_unavailable");
  EXPECT_EQ(result.message, "the keys of the issuer cannot be fetched: the connection was lost");
  // Nothing holds the next one back.
  sign_ins_->Begin(Request());
  AnswerToken(Sign(EdDsa(), Claims()));
  AnswerKeys(Jwks({EdDsa()}));
  EXPECT_TRUE(Finish().accepted);
}

// Every look at it shows an earlier time, so that keys never seem to be new.
class BackwardClock : public Clock {
 public:
  Micros Now() const override { return now_ -= kSecond; }

 private:
  mutable Micros now_ = 1'700'000'000 * kSecond;
};

TEST_F(SignInKeysTest, NoSignInAsksForKeysForEver) {
  const BackwardClock clock;
  sign_ins_ = std::make_unique<SignIns>(transport_, clock);
  sign_ins_->Begin(Request());
  AnswerToken(Sign(EdDsa("unknown"), Claims()));
  for (int fetches = 0; fetches < 2; ++fetches) AnswerKeys(Jwks({EdDsa("known")}));
  const SignInResult result = Finish();
  EXPECT_EQ(result.failure, "id_token_unknown_key");
  EXPECT_EQ(result.duration, 0);
  EXPECT_EQ(transport_.CountOf(kKeysUrl), 2u);
}

TEST_F(SignInKeysTest, AnEmptySetOfKeysVerifiesNothing) {
  EXPECT_EQ(Outcome(Sign(EdDsa(), Claims()), R"({"keys":[]})"), "id_token_unknown_key");
}

TEST_F(SignInKeysTest, OldKeysServeForADay) {
  EXPECT_EQ(Outcome(Sign(EdDsa(), Claims()), Jwks({EdDsa()})), Claims());
  clock_.Advance(23 * kHour);
  sign_ins_->Begin(Request());
  AnswerToken(Sign(EdDsa(), Claims()));
  AnswerKeys("", 503);
  EXPECT_TRUE(Finish().accepted);
  // For ten seconds nobody asks again.
  sign_ins_->Begin(Request());
  AnswerToken(Sign(EdDsa(), Claims()));
  EXPECT_TRUE(Finish().accepted);
  clock_.Advance(10 * kSecond);
  sign_ins_->Begin(Request());
  AnswerToken(Sign(EdDsa("new"), Claims()));
  AnswerKeys("", 503);
  const SignInResult unknown = Finish();
  EXPECT_EQ(unknown.failure, "id_token_unknown_key");
  EXPECT_NE(unknown.message.find("newer keys cannot be fetched: HTTP 503"), std::string::npos) << unknown.message;
  clock_.Advance(kHour);
  sign_ins_->Begin(Request());
  AnswerToken(Sign(EdDsa(), Claims()));
  AnswerKeys("", 503);
  EXPECT_EQ(Finish().failure, "keys_unavailable");
}

}  // namespace
}  // namespace token_refresh
