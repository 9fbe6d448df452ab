#include "core/jwk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/err.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "jose_keys.h"

namespace token_refresh {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

// The key of RFC 7638 section 3.1.
constexpr char kRfc7638Modulus[] =
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3okn"
    "jhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6q"
    "MQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awap"
    "JzKnqDKgw";
// The keys of RFC 7515 A.3 and RFC 8037 A.2.
constexpr char kRfc7515X[] = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
constexpr char kRfc7515Y[] = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
constexpr char kRfc8037X[] = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

nlohmann::json RsaJwk() { return {{"kty", "RSA"}, {"n", kRfc7638Modulus}, {"e", "AQAB"}}; }
nlohmann::json EcJwk() { return {{"kty", "EC"}, {"crv", "P-256"}, {"x", kRfc7515X}, {"y", kRfc7515Y}}; }
nlohmann::json OkpJwk() { return {{"kty", "OKP"}, {"crv", "Ed25519"}, {"x", kRfc8037X}}; }
nlohmann::json OctJwk() { return {{"kty", "oct"}, {"k", Base64UrlEncode(kFakeSecret)}}; }

nlohmann::json With(nlohmann::json jwk, const nlohmann::json& changes) {
  jwk.merge_patch(changes);
  return jwk;
}

Error Refused(const nlohmann::json& jwk) {
  auto key = ParseJwk(jwk.dump());
  EXPECT_FALSE(key) << jwk.dump();
  EXPECT_EQ(ERR_peek_error(), 0u) << jwk.dump();
  return key ? Error{} : key.error();
}

void ExpectRefused(const nlohmann::json& jwk, const std::string& because) {
  const Error error = Refused(jwk);
  EXPECT_EQ(error.code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(error.message, HasSubstr(because)) << jwk.dump();
}

std::vector<JwsAlgorithm> Allowed(const nlohmann::json& jwk) {
  std::vector<JwsAlgorithm> allowed;
  auto key = ParseJwk(jwk.dump());
  EXPECT_TRUE(key) << jwk.dump() << ": " << key.error().message;
  for (const char* name : {"HS256", "RS256", "PS256", "ES256", "EdDSA"}) {
    if (key && key->Allows(*FindJwsAlgorithm(name))) allowed.push_back(*FindJwsAlgorithm(name));
  }
  return allowed;
}

using enum JwsAlgorithm;
using Algorithms = std::vector<JwsAlgorithm>;

TEST(JwsAlgorithm, Names) {
  EXPECT_EQ(FindJwsAlgorithm("Ed25519"), kEdDsa);
  EXPECT_EQ(JwsAlgorithmName(kEdDsa), "EdDSA");
  for (const char* name : {"", "none", "None", "hs256", "HS384", "HS512", "RS512", "ES384", "ES256K", "Ed448"}) {
    EXPECT_EQ(FindJwsAlgorithm(name), std::nullopt) << name;
  }
}

TEST(Jwk, TheKeySaysWhichAlgorithms) {
  EXPECT_EQ(Allowed(RsaJwk()), (Algorithms{kRs256, kPs256}));
  EXPECT_EQ(Allowed(With(RsaJwk(), {{"alg", "RS256"}})), Algorithms{kRs256});
  EXPECT_EQ(Allowed(With(RsaJwk(), {{"alg", "PS256"}})), Algorithms{kPs256});
  EXPECT_EQ(Allowed(EcJwk()), Algorithms{kEs256});
  EXPECT_EQ(Allowed(OkpJwk()), Algorithms{kEdDsa});
  EXPECT_EQ(Allowed(With(OkpJwk(), {{"alg", "Ed25519"}})), Algorithms{kEdDsa});
  EXPECT_EQ(Allowed(OctJwk()), Algorithms{kHs256});
  EXPECT_EQ(Allowed(With(OctJwk(), {{"alg", "HS256"}})), Algorithms{kHs256});
}

TEST(Jwk, AlgorithmsThatTheTypeDoesNotHave) {
  for (const char* alg : {"HS256", "ES256", "EdDSA"}) ExpectRefused(With(RsaJwk(), {{"alg", alg}}), "does not allow");
  for (const char* alg : {"HS256", "RS256", "EdDSA"}) ExpectRefused(With(EcJwk(), {{"alg", alg}}), "does not allow");
  for (const char* alg : {"HS256", "RS256", "ES256"}) ExpectRefused(With(OkpJwk(), {{"alg", alg}}), "does not allow");
  for (const char* alg : {"RS256", "ES256"}) ExpectRefused(With(OctJwk(), {{"alg", alg}}), "does not allow");
  for (const char* alg : {"none", "RSA-OAEP", "RS512", ""}) ExpectRefused(With(RsaJwk(), {{"alg", alg}}), "not served");
  ExpectRefused(With(RsaJwk(), {{"alg", 7}}), "alg of a key is text");
}

TEST(Jwk, ChecksNothingWithAnotherAlgorithm) {
  const SigningKey key = Rs256();
  auto signature = key.Sign("message");
  ASSERT_TRUE(signature);
  EXPECT_TRUE(*key.verification_key().Verify(kRs256, "message", *signature));
  EXPECT_FALSE(*Ps256().verification_key().Verify(kRs256, "message", *signature));
  EXPECT_FALSE(*key.verification_key().Verify(kHs256, "message", *signature));
  EXPECT_FALSE(*Hs256().verification_key().Verify(kRs256, "message", *Hs256().Sign("message")));
}

TEST(Jwk, UseAndKeyOps) {
  EXPECT_EQ(Allowed(With(EcJwk(), {{"use", "sig"}, {"key_ops", {"verify"}}})), Algorithms{kEs256});
  EXPECT_EQ(Allowed(With(EcJwk(), {{"key_ops", {"sign", "verify"}}})), Algorithms{kEs256});
  ExpectRefused(With(EcJwk(), {{"use", "enc"}}), "use of this key");
  ExpectRefused(With(EcJwk(), {{"use", "SIG"}}), "use of this key");
  ExpectRefused(With(EcJwk(), {{"use", true}}), "use of a key is text");
  ExpectRefused(With(EcJwk(), {{"key_ops", {"sign"}}}), "key_ops");
  ExpectRefused(With(EcJwk(), {{"key_ops", nlohmann::json::array()}}), "key_ops");
  ExpectRefused(With(EcJwk(), {{"key_ops", "verify"}}), "an array");
}

TEST(Jwk, MissingOrUnusableMembers) {
  for (const auto& [jwk, names] : std::vector<std::pair<nlohmann::json, std::vector<const char*>>>{
           {RsaJwk(), {"n", "e"}}, {EcJwk(), {"x", "y"}}, {OkpJwk(), {"x"}}, {OctJwk(), {"k"}}}) {
    for (const char* name : names) {
      ExpectRefused(With(jwk, {{name, nullptr}}), "missing or not base64url");
      for (const char* value : {"", "*", "AQAB=", "AQ AB", "A", "+/+/"}) {
        ExpectRefused(With(jwk, {{name, value}}), "missing or not base64url");
      }
      ExpectRefused(With(jwk, {{name, 7}}), "missing or not base64url");
    }
  }
  ExpectRefused(With(RsaJwk(), {{"kty", nullptr}}), "kty");
  ExpectRefused(With(RsaJwk(), {{"kty", "rsa"}}), "kty");
  ExpectRefused(With(RsaJwk(), {{"kid", 7}}), "kid of a key is text");
  ExpectRefused(With(RsaJwk(), {{"kid", std::string(kMaxKidBytes + 1, 'k')}}), "256 bytes");
  ExpectRefused(With(RsaJwk(), {{"kid", "a\nb"}}), "control");
}

TEST(Jwk, WeakRsa) {
  EVP_PKEY* weak = EVP_RSA_gen(1024);
  BIGNUM* modulus = nullptr;
  ASSERT_EQ(EVP_PKEY_get_bn_param(weak, "n", &modulus), 1);
  std::string bytes(static_cast<size_t>(BN_num_bytes(modulus)), '\0');
  BN_bn2bin(modulus, reinterpret_cast<unsigned char*>(bytes.data()));
  ExpectRefused(With(RsaJwk(), {{"n", Base64UrlEncode(bytes)}}), "2048 bits or more");
  // Zeros in front make it longer, not stronger.
  ExpectRefused(With(RsaJwk(), {{"n", Base64UrlEncode(std::string(300, '\0') + bytes)}}), "2048 bits or more");
  auto pem = SigningKey::FromPem(PrivatePem(weak));
  ASSERT_FALSE(pem);
  EXPECT_THAT(pem.error().message, HasSubstr("2048 bits or more"));
  BN_free(modulus);
  EVP_PKEY_free(weak);
}

TEST(Jwk, HugeOrOddRsa) {
  ExpectRefused(With(RsaJwk(), {{"n", Base64UrlEncode(std::string(1025, '\xff'))}}), "8192 bits");
  ExpectRefused(With(RsaJwk(), {{"n", Base64UrlEncode(std::string(5000, '\xff'))}}), "8192 bits");
  for (const std::string_view exponent : {"\x01", "\x02", "\x01\x01\x01\x02", "\x01\x01\x01\x01\x01\x01\x01\x01\x01"}) {
    ExpectRefused(With(RsaJwk(), {{"e", Base64UrlEncode(exponent)}}), "exponent of an RSA key");
  }
  ExpectRefused(With(RsaJwk(), {{"e", Base64UrlEncode(std::string_view("\0", 1))}}), "exponent of an RSA key");
  EXPECT_EQ(Allowed(With(RsaJwk(), {{"e", "Aw"}})).size(), 2u);
}

TEST(Jwk, PointsThatAreNotOnTheCurve) {
  ExpectRefused(With(EcJwk(), {{"y", kRfc7515X}}), "not on P-256");
  ExpectRefused(
      With(EcJwk(), {{"x", Base64UrlEncode(std::string(32, '\0'))}, {"y", Base64UrlEncode(std::string(32, '\0'))}}),
      "not on P-256");
  // A coordinate that is not reduced.
  ExpectRefused(With(EcJwk(), {{"x", Base64UrlEncode(std::string(32, '\xff'))}}), "not on P-256");
  for (const size_t size : {1u, 31u, 33u, 64u}) {
    ExpectRefused(With(EcJwk(), {{"x", Base64UrlEncode(std::string(size, 'x'))}}), "32 bytes");
    ExpectRefused(With(EcJwk(), {{"y", Base64UrlEncode(std::string(size, 'x'))}}), "32 bytes");
    ExpectRefused(With(OkpJwk(), {{"x", Base64UrlEncode(std::string(size, 'x'))}}), "32 bytes");
  }
}

TEST(Jwk, OtherCurves) {
  for (const char* curve : {"P-384", "P-521", "secp256k1", "p-256", "Ed25519", ""}) {
    ExpectRefused(With(EcJwk(), {{"crv", curve}}), "not P-256");
  }
  for (const char* curve : {"Ed448", "X25519", "P-256"}) ExpectRefused(With(OkpJwk(), {{"crv", curve}}), "not Ed25519");
}

TEST(Jwk, Secrets) {
  ExpectRefused(With(OctJwk(), {{"k", Base64UrlEncode(std::string(31, 's'))}}), "32 bytes or more");
  EXPECT_FALSE(VerificationKey::FromSecret("", "kid"));
  EXPECT_FALSE(VerificationKey::FromSecret(std::string(31, 's'), "kid"));
  EXPECT_TRUE(VerificationKey::FromSecret(std::string(32, '\0'), ""));
  EXPECT_TRUE(VerificationKey::FromSecret(std::string(5000, 's'), ""));
  auto pem = VerificationKey::FromSecret("  \n" + PublicPem(RsaPkey()), "kid");
  ASSERT_FALSE(pem);
  EXPECT_THAT(pem.error().message, HasSubstr("PEM"));
}

TEST(Jwk, DocumentsThatAreNoKey) {
  for (const char* json : {"", "[]", "null", "\"x\"", "{\"kty\":\"oct\",\"kty\":\"oct\"}", "{} "}) {
    auto key = ParseJwk(json);
    ASSERT_FALSE(key) << json;
    EXPECT_EQ(key.error().code, ErrorCode::kInvalidArgument);
  }
  EXPECT_FALSE(ParseJwk(std::string(kMaxJwksBytes + 1, ' ')));
}

TEST(Jwk, NoErrorQuotesTheKey) {
  const std::string secret = Base64UrlEncode("sensitive-word");
  const Error error = Refused(With(OctJwk(), {{"k", secret}, {"kid", "sensitive-kid"}}));
  EXPECT_EQ(error.message.find(secret), std::string::npos);
  EXPECT_EQ((error.message + error.hint).find("sensitive"), std::string::npos);
}

TEST(Jwk, ThumbprintsOfTheRfcs) {
  const auto thumbprint = [](Result<AsymmetricKey> key) {
    EXPECT_TRUE(key);
    return *key->Thumbprint();
  };
  const std::string modulus(Base64UrlDecode(kRfc7638Modulus)->view());
  const std::string exponent("\x01\x00\x01", 3);
  constexpr char kRfc7638Thumbprint[] = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs";
  EXPECT_EQ(thumbprint(AsymmetricKey::FromRsa(modulus, exponent)), kRfc7638Thumbprint);
  EXPECT_EQ(thumbprint(AsymmetricKey::FromRsa('\0' + modulus, '\0' + exponent)), kRfc7638Thumbprint);
  EXPECT_EQ(thumbprint(AsymmetricKey::FromEd25519(Base64UrlDecode(kRfc8037X)->view())),  // RFC 8037 A.3
            "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
}

TEST(Jwks, WhatIsUsableIsKept) {
  const nlohmann::json document = {{"keys",
                                    {With(RsaJwk(), {{"kid", "a"}, {"alg", "RS256"}}),
                                     With(RsaJwk(), {{"kid", "b"}, {"use", "enc"}}),
                                     With(EcJwk(), {{"kid", "c"}}),
                                     {{"kty", "PQC"}, {"kid", "d"}},
                                     With(RsaJwk(), {{"alg", "RSA-OAEP"}}),
                                     With(OctJwk(), {{"kid", "e"}}),
                                     7,
                                     nullptr,
                                     "x",
                                     With(OkpJwk(), {{"x", "AA"}}),
                                     OkpJwk()}},
                                   {"other", {1, 2}}};
  auto set = ParseJwks(document.dump());
  ASSERT_TRUE(set) << set.error().message;
  ASSERT_THAT(set->keys(), SizeIs(3));
  EXPECT_EQ(set->keys()[0].kid(), "a");
  EXPECT_EQ(set->keys()[1].kid(), "c");
  EXPECT_EQ(set->keys()[2].kid(), "");
  EXPECT_EQ(set->skipped(), 8u);
  EXPECT_THAT(set->skip_reason(), HasSubstr("use of this key"));
  EXPECT_EQ(ERR_peek_error(), 0u);
}

TEST(Jwks, APublishedSecretIsNone) {
  auto set = ParseJwks(nlohmann::json{{"keys", {OctJwk()}}}.dump());
  ASSERT_TRUE(set);
  EXPECT_THAT(set->keys(), IsEmpty());
  EXPECT_THAT(set->skip_reason(), HasSubstr("published secret"));
}

TEST(Jwks, PrivateMembersAreNotLookedAt) {
  auto set = ParseJwks(nlohmann::json{{"keys", {With(EcJwk(), {{"d", "not even base64url"}})}}}.dump());
  ASSERT_TRUE(set);
  ASSERT_THAT(set->keys(), SizeIs(1));
  EXPECT_EQ(set->keys()[0].PublicJwk()->find("\"d\""), std::string::npos);
}

TEST(Jwks, Bounds) {
  nlohmann::json keys = nlohmann::json::array();
  for (size_t i = 0; i < kMaxJwksKeys; ++i) keys.push_back(OkpJwk());
  EXPECT_TRUE(ParseJwks(nlohmann::json{{"keys", keys}}.dump()));
  keys.push_back(OkpJwk());
  EXPECT_FALSE(ParseJwks(nlohmann::json{{"keys", keys}}.dump()));
  EXPECT_FALSE(ParseJwks("{\"keys\":[]" + std::string(kMaxJwksBytes, ' ') + "}"));
  EXPECT_TRUE(ParseJwks("{\"keys\":[]}"));
  for (const char* json : {"", "[]", "{}", "{\"keys\":{}}", "{\"keys\":null}", "{\"keys\":[],\"keys\":[]}", "<html>"}) {
    auto set = ParseJwks(json);
    ASSERT_FALSE(set) << json;
    EXPECT_EQ(set.error().code, ErrorCode::kInvalidArgument);
  }
}

TEST(Jwks, FindKeys) {
  const JwkSet set = SetOf({Rs256("a"), Ps256("a"), Es256("b"), Rs256("b")});
  EXPECT_THAT(set.FindKeys("a", kRs256), SizeIs(1));
  EXPECT_EQ(set.FindKeys("a", kPs256).front(), &set.keys()[1]);
  EXPECT_THAT(set.FindKeys("a", kEs256), IsEmpty());
  EXPECT_THAT(set.FindKeys("", kRs256), IsEmpty());
  EXPECT_THAT(set.FindKeys("A", kRs256), IsEmpty());
  EXPECT_THAT(set.FindKeys(std::string_view("a\0", 2), kRs256), IsEmpty());
  EXPECT_THAT(set.FindKeys(std::nullopt, kRs256), SizeIs(2));
  EXPECT_THAT(set.FindKeys(std::nullopt, kHs256), IsEmpty());
  JwkSet many;
  for (size_t i = 0; i < kMaxKeysTried + 3; ++i) many.Add(set.keys()[0]);
  EXPECT_THAT(many.FindKeys(std::nullopt, kRs256), SizeIs(kMaxKeysTried));
}

TEST(Jwks, OursCanBeReadByOthers) {
  const SigningKey odd = Es256("k\"\\ \xC3\xA9");
  const JwkSet ours = SetOf({Hs256(), Rs256(), Ps256(), odd, EdDsa("")});
  const std::string text = PublicJwks(ours.keys());
  const auto document = nlohmann::json::parse(text, nullptr, false);
  ASSERT_TRUE(document.is_object()) << text;
  ASSERT_EQ(document["keys"].size(), 4u) << "the secret is left out";
  for (const auto& jwk : document["keys"]) {
    EXPECT_EQ(jwk["use"], "sig");
    for (const char* name : {"d", "p", "q", "dp", "dq", "qi", "k"}) EXPECT_FALSE(jwk.contains(name)) << name;
  }
  EXPECT_EQ(document["keys"][0]["alg"], "RS256");
  EXPECT_EQ(document["keys"][1]["alg"], "PS256");
  EXPECT_EQ(document["keys"][2]["kid"], odd.kid());
  auto read = ParseJwks(text);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->skipped(), 0u);
  EXPECT_EQ(PublicJwks(read->keys()), text);
  EXPECT_EQ(PublicJwks({}), "{\"keys\":[]}");
}

}  // namespace
}  // namespace token_refresh
