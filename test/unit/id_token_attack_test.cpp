// What an id_token can look like that somebody else made, as a whole sign-in sees it.
#include <gtest/gtest.h>

#include <string>

#include "core/openssl_handles.h"
#include "sign_in_fixture.h"

namespace token_refresh {
namespace {

class IdTokenAttackTest : public SignInFixture {
 protected:
  // Of a token that is rightly signed.
  std::string WithClaims(const nlohmann::json& changes) {
    return Outcome(Sign(EdDsa(), Claims(changes)), Jwks({EdDsa()}));
  }
  // Of a token that is put together by hand; the provider's keys are all those there are.
  std::string Forged(const std::string& token) { return Outcome(token, Jwks({Rs256(), Es256(), EdDsa()})); }
};

TEST_F(IdTokenAttackTest, Missing) {
  for (const char* answer : {R"({"access_token":"fake-access"})", R"({"access_token":"fake-access","id_token":""})",
                             R"({"access_token":"fake-access","id_token":null})",
                             R"({"access_token":"fake-access","id_token":["fake-id"]})"}) {
    sign_ins_->Begin(Request());
    ASSERT_TRUE(transport_.Answer(kTokenUrl, 200, answer));
    EXPECT_EQ(Finish().failure, "id_token_missing") << answer;
  }
  EXPECT_EQ(transport_.CountOf(kKeysUrl), 0u);
  EXPECT_EQ(transport_.CountOf(kUserinfoUrl), 0u);
}

TEST_F(IdTokenAttackTest, AlgorithmNone) {
  for (const char* alg : {"none", "None", "NONE", "nOnE", ""}) {
    for (const char* kid : {"", R"(,"kid":"rs")"}) {
      const std::string text = SignedText(R"({"alg":")" + std::string(alg) + "\"" + kid + "}", Claims());
      EXPECT_EQ(Forged(text + "."), "id_token_malformed");
      EXPECT_EQ(Forged(text + ".AAAA"), "id_token_algorithm_refused");
    }
  }
}

TEST_F(IdTokenAttackTest, Hs256WithWhatEverybodyKnowsOfTheRsaKey) {
  const std::string jwk = *Rs256().verification_key().PublicJwk();
  for (const std::string& secret :
       {PublicPem(RsaPkey()), PublicDer(RsaPkey()), RsaModulus(), jwk, Jwks({Rs256()}), std::string()}) {
    for (const char* header : {R"({"alg":"HS256","kid":"rs"})", R"({"alg":"HS256"})"}) {
      EXPECT_EQ(Forged(Hmac(secret, SignedText(header, Claims()))), "id_token_algorithm_refused");
    }
  }
}

TEST_F(IdTokenAttackTest, Hs256IsRefusedEvenWithTheClientSecret) {
  // OpenID Connect allows it; but then whoever reads the secret signs everybody in.
  const std::string token = Hmac("fake-client-secret", SignedText(R"({"alg":"HS256"})", Claims()));
  EXPECT_EQ(Forged(token), "id_token_algorithm_refused");
}

TEST_F(IdTokenAttackTest, ASecretAmongTheKeysIsNone) {
  const std::string jwks =
      R"({"keys":[{"kty":"oct","kid":"hs","alg":"HS256","k":")" + Base64UrlEncode(kFakeSecret) + "\"}]}";
  EXPECT_EQ(Outcome(Sign(Hs256(), Claims()), jwks), "id_token_unknown_key");
}

TEST_F(IdTokenAttackTest, AKeyThatTheTokenBrings) {
  const SigningKey own = Signer(SigningKey::FromPem(PrivatePem(Pkey(EVP_EC_gen("P-256")).get()), std::nullopt, "own"));
  const std::string jwk = *own.verification_key().PublicJwk();
  EXPECT_EQ(Forged(Token(own, R"({"alg":"ES256","jwk":)" + jwk + "}", Claims())), "id_token_wrong_signature");
  EXPECT_EQ(Forged(Token(own, R"({"alg":"ES256","kid":"own","jwk":)" + jwk + "}", Claims())), "id_token_unknown_key");
  EXPECT_EQ(Forged(Token(own, R"({"alg":"ES256","kid":"es","jku":"https://attacker.example/jwks"})", Claims())),
            "id_token_wrong_signature");
  EXPECT_EQ(transport_.CountOf("https://attacker.example/jwks"), 0u);
}

TEST_F(IdTokenAttackTest, AnotherAlgorithmOrKeyOfTheSameIssuer) {
  EXPECT_EQ(Forged(Token(Ps256(), R"({"alg":"PS256","kid":"rs"})", Claims())), "id_token_algorithm_refused");
  EXPECT_EQ(Forged(Token(Rs256(), R"({"alg":"ES256","kid":"rs"})", Claims())), "id_token_algorithm_refused");
  EXPECT_EQ(Forged(Token(Rs256(), R"({"alg":"RS256","kid":"es"})", Claims())), "id_token_algorithm_refused");
}

TEST_F(IdTokenAttackTest, TamperedWith) {
  const std::string token = Sign(EdDsa(), Claims());
  const size_t first = token.find('.');
  const size_t second = token.rfind('.');
  const std::string others = Base64UrlEncode(Claims({{"sub", "admin"}}));
  EXPECT_EQ(Forged(token.substr(0, first + 1) + others + token.substr(second)), "id_token_wrong_signature");
  EXPECT_EQ(Forged(ReplaceSignature(token, std::string(64, '\0'))), "id_token_wrong_signature");
  EXPECT_EQ(Forged(ReplaceSignature(token, "")), "id_token_malformed");
}

TEST_F(IdTokenAttackTest, ForSomebodyElse) {
  for (const nlohmann::json& audience : {nlohmann::json("other"), nlohmann::json::array(), nlohmann::json("")}) {
    EXPECT_EQ(WithClaims({{"aud", audience}}), "id_token_wrong_audience");
  }
  EXPECT_EQ(WithClaims({{"aud", {"other", "another"}}}), "id_token_wrong_audience");
  EXPECT_EQ(WithClaims({{"aud", nullptr}}), "id_token_missing_claim");
  EXPECT_EQ(WithClaims({{"aud", 7}}), "id_token_malformed_claims");
}

TEST_F(IdTokenAttackTest, OfAnotherIssuer) {
  for (const char* issuer : {"https://attacker.example", "https://idp.example/", "http://idp.example", ""}) {
    EXPECT_EQ(WithClaims({{"iss", issuer}}), "id_token_wrong_issuer") << issuer;
  }
  EXPECT_EQ(WithClaims({{"iss", nullptr}}), "id_token_missing_claim");
}

TEST_F(IdTokenAttackTest, IssuedToAnotherParty) {
  EXPECT_EQ(WithClaims({{"azp", "other"}}), "id_token_wrong_authorized_party");
  EXPECT_EQ(WithClaims({{"aud", {"client", "other"}}}), "id_token_wrong_authorized_party");
  EXPECT_EQ(WithClaims({{"aud", {"client", "other"}}, {"azp", "other"}}), "id_token_wrong_authorized_party");
  EXPECT_TRUE(WithClaims({{"aud", {"client", "other"}}, {"azp", "client"}}).starts_with("{"));
}

TEST_F(IdTokenAttackTest, OfAnotherTime) {
  EXPECT_EQ(WithClaims({{"exp", Seconds() - 60}}), "id_token_expired");
  EXPECT_TRUE(WithClaims({{"exp", Seconds() - 59}}).starts_with("{"));
  EXPECT_EQ(WithClaims({{"exp", nullptr}}), "id_token_missing_claim");
  EXPECT_EQ(WithClaims({{"exp", "1900000000"}}), "id_token_malformed_claims");
  EXPECT_EQ(WithClaims({{"iat", Seconds() + 61}}), "id_token_issued_in_future");
  EXPECT_TRUE(WithClaims({{"iat", Seconds() + 60}}).starts_with("{"));
  EXPECT_EQ(WithClaims({{"iat", nullptr}}), "id_token_missing_claim");
  EXPECT_EQ(WithClaims({{"nbf", Seconds() + 61}}), "id_token_not_yet_valid");
}

TEST_F(IdTokenAttackTest, OfAnotherSignIn) {
  EXPECT_EQ(WithClaims({{"nonce", "another"}}), "id_token_wrong_nonce");
  EXPECT_EQ(WithClaims({{"nonce", nullptr}}), "id_token_wrong_nonce");
  EXPECT_EQ(WithClaims({{"nonce", ""}}), "id_token_wrong_nonce");
  EXPECT_EQ(WithClaims({{"nonce", kVerifier}}), "id_token_wrong_nonce");
  EXPECT_EQ(WithClaims({{"nonce", 7}}), "id_token_malformed_claims");
}

TEST_F(IdTokenAttackTest, OfNobody) {
  EXPECT_EQ(WithClaims({{"sub", nullptr}}), "id_token_missing_claim");
  EXPECT_EQ(WithClaims({{"sub", ""}}), "id_token_malformed_claims");
  EXPECT_EQ(WithClaims({{"sub", 7}}), "id_token_malformed_claims");
}

TEST_F(IdTokenAttackTest, SignedInTooLongAgo) {
  const auto outcome = [&](const nlohmann::json& changes) {
    SignInRequest request = Request();
    request.max_authentication_age = 10 * kMinute;
    sign_ins_->Begin(std::move(request));
    AnswerToken(Sign(EdDsa(), Claims(changes)));
    if (transport_.Find(kKeysUrl) != nullptr) AnswerKeys(Jwks({EdDsa()}));
    const SignInResult result = Finish();
    return result.accepted ? "accepted" : result.failure;
  };
  EXPECT_EQ(outcome({{"auth_time", Seconds() - 660}}), "accepted");
  EXPECT_EQ(outcome({{"auth_time", Seconds() - 661}}), "id_token_authentication_too_old");
  EXPECT_EQ(outcome({{"auth_time", nullptr}}), "id_token_missing_claim");
}

TEST_F(IdTokenAttackTest, Malformed) {
  const std::string token = Sign(EdDsa(), Claims());
  for (const std::string& bad :
       {token + ".a.b", token + ".", token.substr(0, token.rfind('.')), std::string("a.b.c.d.e"), std::string("..."),
        std::string("fake-id"), " " + token, token + "\n", token + "=", "Bearer " + token}) {
    EXPECT_EQ(Forged(bad), "id_token_malformed") << bad.size();
  }
  EXPECT_EQ(Forged(std::string(kMaxIdTokenBytes + 1, 'a')), "id_token_too_long");
}

TEST_F(IdTokenAttackTest, AClaimTwice) {
  const std::string claims = Claims();
  const std::string header = R"({"alg":"EdDSA","kid":"ed"})";
  for (const char* twice : {R"({"sub":"admin",)", R"({"nonce":"x",)", R"({"s\u0075b":"admin",)"}) {
    EXPECT_EQ(Forged(Token(EdDsa(), header, twice + claims.substr(1))), "id_token_malformed_claims") << twice;
  }
  EXPECT_EQ(Forged(Token(EdDsa(), R"({"alg":"none","alg":"EdDSA"})", claims)), "id_token_malformed");
}

TEST_F(IdTokenAttackTest, AnExtensionThatIsNotServed) {
  EXPECT_EQ(Forged(Token(EdDsa(), R"({"alg":"EdDSA","kid":"ed","crit":["exp"],"exp":1})", Claims())),
            "id_token_critical_extension");
}

TEST_F(IdTokenAttackTest, TheMessageHoldsNothingOfTheToken) {
  sign_ins_->Begin(Request());
  AnswerToken(Sign(EdDsa(), Claims({{"iss", "https://attacker.example"}})));
  AnswerKeys(Jwks({EdDsa()}));
  EXPECT_EQ(Finish().message, "the id_token is refused: the token is from another issuer");
}

}  // namespace
}  // namespace token_refresh
