// What is signed and verified as the RFCs have it. What attackers do is in jws_attack_test.cpp.
#include "core/jws.h"

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

// RFC 7515 appendix A: the payload of A.1 to A.3.
constexpr char kJoe[] =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
constexpr char kJoeText[] = "{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}";

JwkSet SetOfJwk(std::string_view jwk) {
  auto key = ParseJwk(jwk);
  EXPECT_TRUE(key) << key.error().message;
  JwkSet set;
  set.Add(*key);
  return set;
}

void ExpectPayload(const std::string& token, const JwkSet& keys, std::string_view payload) {
  const VerifiedJws verified = VerifyJws(token, keys);
  EXPECT_EQ(JwtFailureWord(verified.failure), "none");
  EXPECT_EQ(verified.payload.view(), payload);
  EXPECT_EQ(ERR_peek_error(), 0u);
}

// The same token with another last character but one, which still is canonical base64url.
std::string Damaged(std::string token) {
  char& changed = token[token.size() - 2];
  changed = changed == 'A' ? 'B' : 'A';
  return token;
}

void ExpectVector(const std::string& header, const std::string& payload, const std::string& signature,
                  std::string_view jwk, std::string_view text) {
  const JwkSet keys = SetOfJwk(jwk);
  const std::string token = header + "." + payload + "." + signature;
  ExpectPayload(token, keys, text);
  EXPECT_EQ(JwsRefusal(Damaged(token), keys), "wrong_signature");
  EXPECT_EQ(JwsRefusal(header + "." + Damaged(payload) + "." + signature, keys), "wrong_signature");
  EXPECT_EQ(JwsRefusal(header + "." + payload + ".", keys), "malformed");
  ExpectPayload(token, keys, text);
}

TEST(Jws, Rfc7515A1Hs256) {
  ExpectVector("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9", kJoe, "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
               R"({"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1)"
               R"(Z9CAow"})",
               kJoeText);
}

TEST(Jws, Rfc7515A2Rs256) {
  ExpectVector(
      "eyJhbGciOiJSUzI1NiJ9", kJoe,
      "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7"
      "t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi1"
      "2jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGl"
      "UPQGe77Rw",
      R"({"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS)"
      R"(2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5r)"
      R"(exMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF)"
      R"(8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"})",
      kJoeText);
}

TEST(Jws, Rfc7515A3Es256) {
  ExpectVector("eyJhbGciOiJFUzI1NiJ9", kJoe,
               "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
               R"({"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",)"
               R"("y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"})",
               kJoeText);
}

TEST(Jws, Rfc7515A5UnsecuredIsRefused) {
  const JwkSet keys = SetOf({Hs256(), Rs256(), Es256(), EdDsa()});
  EXPECT_EQ(JwsRefusal(std::string("eyJhbGciOiJub25lIn0.") + kJoe + ".", keys), "malformed");
  EXPECT_EQ(JwsRefusal(std::string("eyJhbGciOiJub25lIn0.") + kJoe + ".AAAA", keys), "algorithm_refused");
}

// The payload of RFC 8037 is no JSON, nor is that of RFC 7520: that is the business of whoever reads the claims.
TEST(Jws, Rfc8037A5EdDsa) {
  ExpectVector("eyJhbGciOiJFZERTQSJ9", "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
               "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
               R"({"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})",
               "Example of Ed25519 signing");
}

// RFC 8037 A.4: a signature of Ed25519 is the same each time. The key is the d of A.1 in PKCS#8 (RFC 8410).
TEST(Jws, Rfc8037A4Sign) {
  const std::string seed(Base64UrlDecode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")->view());
  const std::string prefix("\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20", 16);
  auto key = SigningKey::FromPem("-----BEGIN PRIVATE KEY-----\n" + Base64Encode(prefix + seed) +
                                 "\n-----END PRIVATE KEY-----\n");
  ASSERT_TRUE(key) << key.error().message;
  EXPECT_EQ(key->kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");  // A.3
  EXPECT_EQ(Token(*key, R"({"alg":"EdDSA"})", "Example of Ed25519 signing"),
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg");
}

TEST(Jws, EveryAlgorithmSignsWhatItVerifies) {
  const std::vector<SigningKey> keys = {Hs256(), Rs256(), Ps256(), Es256(), EdDsa()};
  JwkSet all;
  for (const SigningKey& key : keys) all.Add(key.verification_key());
  for (const SigningKey& key : keys) {
    const std::string name(JwsAlgorithmName(key.algorithm()));
    auto token = SignJwt(key, R"({"sub":"é"})");
    ASSERT_TRUE(token) << name;
    ExpectPayload(*token, all, R"({"sub":"é"})");
    ExpectPayload(*token, SetOf({key}), R"({"sub":"é"})");
    EXPECT_EQ(JwsRefusal(Damaged(*token), all), "wrong_signature") << name;
    const std::string encoded = token->substr(0, token->find('.'));
    const auto header = nlohmann::json::parse(Base64UrlDecode(encoded)->view());
    EXPECT_EQ(header, (nlohmann::json{{"alg", name}, {"kid", key.kid()}, {"typ", "JWT"}}));
  }
}

TEST(Jws, WithoutKid) {
  const SigningKey key = Hs256("");
  auto token = SignJwt(key, "{}");
  ASSERT_TRUE(token);
  EXPECT_EQ(Base64UrlDecode(token->substr(0, token->find('.')))->view(), R"({"alg":"HS256","typ":"JWT"})");
  ExpectPayload(*token, SetOf({key}), "{}");
  // Any key that allows the algorithm is tried, after others in vain.
  const SigningKey other = Signer(SigningKey::FromSecret(std::string(32, 'o'), "other"));
  ExpectPayload(*token, SetOf({other, Rs256(), Hs256("named")}), "{}");
  EXPECT_EQ(JwsRefusal(*token, SetOf({other})), "wrong_signature");
  EXPECT_EQ(JwsRefusal(*token, SetOf({Rs256()})), "algorithm_refused");
  EXPECT_EQ(JwsRefusal(*token, {}), "algorithm_refused");
}

TEST(Jws, KeysOfOneKidAndRotation) {
  const SigningKey old_key = Hs256("2026");
  const SigningKey new_key = Signer(SigningKey::FromSecret(std::string(32, 'n'), "2027"));
  const SigningKey same_kid = Signer(SigningKey::FromSecret(std::string(32, 's'), "2026"));
  auto token = SignJwt(old_key, "{}");
  ExpectPayload(*token, SetOf({new_key, old_key}), "{}");
  ExpectPayload(*token, SetOf({same_kid, old_key}), "{}");
  EXPECT_EQ(JwsRefusal(*token, SetOf({new_key})), "unknown_key");
  EXPECT_EQ(JwsRefusal(*token, SetOf({same_kid})), "wrong_signature");
}

TEST(Jws, OtherHeadersOfOurOwn) {
  const SigningKey key = Es256("k");
  for (const char* header : {R"({"kid":"k","alg":"ES256"})", " {\"alg\" : \"ES256\"\r\n}", R"({"alg":"ES256","typ":7})",
                             R"({"alg":"ES256","unknown":{"a":[1]}})"}) {
    ExpectPayload(Token(key, header), SetOf({key}), "{}");
  }
}

TEST(Jws, Typ) {
  const SigningKey key = Hs256("k");
  const auto refusal = [&](const std::string& header, std::string_view typ) {
    return JwsRefusal(Token(key, header), SetOf({key}), {kMaxSessionTokenBytes, typ});
  };
  for (const char* typ : {"at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+jwt"}) {
    EXPECT_EQ(refusal(R"({"alg":"HS256","typ":")" + std::string(typ) + "\"}", "at+jwt"), "none") << typ;
    EXPECT_EQ(refusal(R"({"alg":"HS256","typ":")" + std::string(typ) + "\"}", "jwt"), "wrong_type") << typ;
  }
  for (const char* header : {R"({"alg":"HS256"})", R"({"alg":"HS256","typ":null})", R"({"alg":"HS256","typ":""})",
                             R"({"alg":"HS256","typ":"application/"})", R"({"alg":"HS256","kid":"k","typ":"JWT"})"}) {
    EXPECT_EQ(refusal(header, "at+jwt"), "wrong_type") << header;
  }
  EXPECT_EQ(JwsRefusal(*SignJwt(key, "{}"), SetOf({key}), {kMaxSessionTokenBytes, "jwt"}), "none");
}

TEST(Jws, SizeLimits) {
  const SigningKey key = Hs256();
  const auto claims = [](size_t size) { return "{\"a\":\"" + std::string(size - 8, 'x') + "\"}"; };
  size_t size = 12000;
  while (SignJwt(key, claims(size + 1))) ++size;
  auto longest = SignJwt(key, claims(size));
  ASSERT_TRUE(longest);
  EXPECT_GT(longest->size(), kMaxSessionTokenBytes - 4);
  ExpectPayload(*longest, SetOf({key}), claims(size));
  EXPECT_THAT(SignJwt(key, claims(size + 1)).error().message, HasSubstr("16 KiB"));
  const std::string longer = Token(key, "{\"alg\":\"HS256\"}", claims(size + 100));
  EXPECT_EQ(JwsRefusal(longer, SetOf({key})), "too_long");
  EXPECT_EQ(JwsRefusal(longer, SetOf({key}), {kMaxIdTokenBytes, {}}), "none");
}

TEST(Jws, SignsJsonObjectsOnly) {
  for (const char* claims : {"", "[]", "null", "{", "{\"a\":1,\"a\":2}", "{\"a\":\"\xff\"}", "{\"a\":\"\\u0000\"}"}) {
    auto token = SignJwt(Hs256(), claims);
    ASSERT_FALSE(token) << claims;
    EXPECT_EQ(token.error().code, ErrorCode::kInvalidArgument);
  }
  EXPECT_FALSE(SignJwt(Hs256(), "{\"a\":\"" + std::string(kMaxSessionTokenBytes, 'x') + "\"}"));
}

TEST(SigningKey, TheAlgorithmOfAPem) {
  EXPECT_EQ(Signer(SigningKey::FromPem(PrivatePem(RsaPkey()))).algorithm(), JwsAlgorithm::kRs256);
  EXPECT_EQ(Es256().algorithm(), JwsAlgorithm::kEs256);
  EXPECT_EQ(EdDsa().algorithm(), JwsAlgorithm::kEdDsa);
  for (const JwsAlgorithm algorithm : {JwsAlgorithm::kHs256, JwsAlgorithm::kEs256, JwsAlgorithm::kEdDsa}) {
    auto key = SigningKey::FromPem(PrivatePem(RsaPkey()), algorithm);
    ASSERT_FALSE(key);
    EXPECT_THAT(key.error().message, HasSubstr("does not allow"));
  }
}

TEST(SigningKey, PemsThatDoNot) {
  EVP_PKEY* p384 = EVP_EC_gen("P-384");
  EVP_PKEY* x25519 = EVP_PKEY_Q_keygen(nullptr, nullptr, "X25519");
  BIO* encrypted = BIO_new(BIO_s_mem());
  PEM_write_bio_PKCS8PrivateKey(encrypted, EcPkey(), EVP_aes_128_cbc(), "fake", 4, nullptr, nullptr);
  const std::string pem = PrivatePem(EcPkey());
  for (const std::string& bad :
       {std::string(), std::string("fake"), PublicPem(RsaPkey()), PublicDer(EcPkey()), PrivatePem(p384),
        PrivatePem(x25519), BytesOfBio(encrypted), pem.substr(0, pem.size() / 2), std::string(70000, 'x') + pem}) {
    auto key = SigningKey::FromPem(bad);
    ASSERT_FALSE(key) << bad;
    EXPECT_EQ(key.error().code, ErrorCode::kInvalidArgument);
    EXPECT_EQ(ERR_peek_error(), 0u);
  }
  EVP_PKEY_free(p384);
  EVP_PKEY_free(x25519);
}

TEST(SigningKey, OlderPems) {
  for (EVP_PKEY* pkey : {RsaPkey(), EcPkey()}) {
    BIO* bio = BIO_new(BIO_s_mem());
    ASSERT_EQ(PEM_write_bio_PrivateKey_traditional(bio, pkey, nullptr, nullptr, 0, nullptr, nullptr), 1);
    EXPECT_EQ(Signer(SigningKey::FromPem(BytesOfBio(bio))).kid(), Signer(SigningKey::FromPem(PrivatePem(pkey))).kid());
  }
}

// PKCS#8 carries the public point of an EC key as well: here the one of another key.
TEST(SigningKey, HalvesOfTwoKeys) {
  EVP_PKEY* other = EVP_EC_gen("P-256");
  constexpr size_t kPointBytes = 65;
  const auto der_of = [](EVP_PKEY* key) {
    BIO* bio = BIO_new(BIO_s_mem());
    EXPECT_EQ(i2d_PKCS8PrivateKey_bio(bio, key, nullptr, nullptr, 0, nullptr, nullptr), 1);
    return BytesOfBio(bio);
  };
  std::string der = der_of(EcPkey());
  const std::string other_der = der_of(other);
  der.replace(der.size() - kPointBytes, kPointBytes, other_der.substr(other_der.size() - kPointBytes));
  auto key = SigningKey::FromPem("-----BEGIN PRIVATE KEY-----\n" + Base64Encode(der) + "\n-----END PRIVATE KEY-----\n");
  ASSERT_FALSE(key);
  EXPECT_THAT(key.error().message, HasSubstr("belong together"));
  EVP_PKEY_free(other);
}

}  // namespace
}  // namespace token_refresh
