// What attackers send, with keys made here. The classes are those of RFC 8725 section 2 and of the Wycheproof vectors
// for JSON Web Signature:
//   no signature: alg none in every spelling                        NoneInEveryCase, Parts
//   a part or dot missing, empty, or one too many                   Parts
//   JSON serialization, a detached payload                          Parts
//   header, payload or signature changed                            Jws.Rfc*, Jws.EveryAlgorithmSignsWhatItVerifies
//   an algorithm that is not served or not the key's                AlgorithmsThatAreNotServed, PaddingConfusion
//   a public key in any form, or nothing, as the secret of HS256    PublicKeyAsSecret, OtherSecrets
//   a key in the header, a reference to one, somebody else's key    KeysOfOthers
//   a kid that is a path, a statement, no text, or has a NUL        Kids
//   crit, b64                                                       Extensions
//   a header that is long, deep, no object, or has a name twice     Headers
//   base64url with padding, white space, other characters or bits   Base64Url
//   RSA signatures of another length, 0, 1, n - 1, n, not reduced   RsaSignatures, PssWithoutItsLeadingZero
//   PKCS #1 v1.5 in BER, with garbage, with another hash or none    RsaPaddingsThatAreNotOfTheAlgorithm, Pkcs1ByHand
//   PSS with a salt of another length or another hash               RsaPaddingsThatAreNotOfTheAlgorithm
//   ECDSA with r or s of 0, 1, n - 1, n and more; DER; length       EcdsaNumbersOutOfRange, EcdsaForms
//   Ed25519 with S not reduced; length                              Ed25519Forms
//   keys for encryption, weak keys, points off the curve            Jwk.*
//   claims twice, too deep, no UTF-8, times that are none           Jwt.*, JwtClaims.* (jwt_claims_test.cpp)
// Those of RSA are in jws_rsa_attack_test.cpp.
#include <gtest/gtest.h>
#include <openssl/ec.h>

#include <string>
#include <utility>
#include <vector>

#include "core/encoding.h"
#include "core/jws.h"
#include "jose_keys.h"

namespace token_refresh {
namespace {

JwkSet AllKeys() { return SetOf({Hs256(), Rs256(), Ps256(), Es256(), EdDsa()}); }

TEST(JwsAttack, NoneInEveryCase) {
  for (const char* alg : {"none", "None", "NONE", "nOnE", "none ", ""}) {
    const std::string text = SignedText(R"({"alg":")" + std::string(alg) + "\"}", "{}");
    EXPECT_EQ(JwsRefusal(text + ".", AllKeys()), "malformed");
    EXPECT_EQ(JwsRefusal(text, AllKeys()), "malformed");
    EXPECT_EQ(JwsRefusal(text + ".AAAA", AllKeys()), "algorithm_refused") << alg;
    EXPECT_EQ(JwsRefusal(Hmac("", text), AllKeys()), "algorithm_refused") << alg;
    EXPECT_EQ(JwsRefusal(Hmac(kFakeSecret, text), AllKeys()), "algorithm_refused") << alg;
  }
}

TEST(JwsAttack, AlgorithmsThatAreNotServed) {
  for (const char* alg : {"HS384", "HS512", "RS1", "RS384", "RS512", "PS512", "ES384", "ES512", "ES256K", "hs256",
                          "HS256 ", "A128KW", "dir"}) {
    EXPECT_EQ(JwsRefusal(Hmac(kFakeSecret, SignedText(R"({"alg":")" + std::string(alg) + "\"}", "{}")), AllKeys()),
              "algorithm_refused")
        << alg;
  }
  for (const char* header : {"{}", R"({"alg":null})", R"({"alg":["HS256"]})", R"({"alg":256})", R"({"ALG":"HS256"})"}) {
    EXPECT_EQ(JwsRefusal(Hmac(kFakeSecret, SignedText(header, "{}")), AllKeys()), "malformed") << header;
  }
}

// A public key is known to everybody, so no form of it may serve as a secret.
TEST(JwsAttack, PublicKeyAsSecret) {
  const JwkSet keys = SetOf({Rs256("k"), Es256("e"), EdDsa("d")});
  auto published = ParseJwks(PublicJwks(keys.keys()));
  ASSERT_TRUE(published);
  const std::string modulus = RsaModulus();
  const std::string pem = PublicPem(RsaPkey());
  for (const std::string& secret : {pem, pem.substr(0, pem.size() - 1), PublicDer(RsaPkey()), modulus,
                                    Base64UrlEncode(modulus), PublicPem(EcPkey()), PublicDer(EcPkey()),
                                    PublicPem(EdPkey()), *published->keys()[0].PublicJwk(), std::string()}) {
    for (const char* header : {R"({"alg":"HS256"})", R"({"alg":"HS256","kid":"k"})", R"({"alg":"HS256","kid":"e"})"}) {
      EXPECT_EQ(JwsRefusal(Hmac(secret, SignedText(header, "{}")), keys), "algorithm_refused") << header;
      EXPECT_EQ(JwsRefusal(Hmac(secret, SignedText(header, "{}")), *published), "algorithm_refused") << header;
    }
  }
}

TEST(JwsAttack, OtherSecrets) {
  const JwkSet keys = AllKeys();
  const std::string secret(kFakeSecret);
  for (const std::string& wrong : {std::string(), std::string(32, '\0'), secret + "x", secret.substr(1),
                                   Base64UrlEncode(secret), Base64Encode(secret)}) {
    EXPECT_EQ(JwsRefusal(Hmac(wrong, SignedText(R"({"alg":"HS256","kid":"hs"})", "{}")), keys), "wrong_signature");
  }
}

TEST(JwsAttack, EcdsaNumbersOutOfRange) {
  const SigningKey key = Es256();
  const std::string token = *SignJwt(key, "{}");
  const std::string n = FromHex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
  const std::string n_minus_1 = FromHex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632550");
  const std::string zero(32, '\0');
  const std::string one = std::string(31, '\0') + '\1';
  const std::string most(32, '\xff');
  const std::string r = SignatureOf(token).substr(0, 32);
  const std::string s = SignatureOf(token).substr(32);
  for (const std::string& first : {zero, one, n_minus_1, n, most, r}) {
    for (const std::string& second : {zero, one, n_minus_1, n, most, s}) {
      const bool is_right = first == r && second == s;
      EXPECT_EQ(JwsRefusal(ReplaceSignature(token, first + second), SetOf({key})),
                is_right ? "none" : "wrong_signature");
    }
  }
  EXPECT_EQ(JwsRefusal(ReplaceSignature(token, s + r), SetOf({key})), "wrong_signature");
}

TEST(JwsAttack, EcdsaForms) {
  const SigningKey key = Es256();
  const std::string token = *SignJwt(key, "{}");
  const std::string raw = SignatureOf(token);
  ASSERT_EQ(raw.size(), 64u);
  const auto* bytes = reinterpret_cast<const unsigned char*>(raw.data());
  ECDSA_SIG* numbers = ECDSA_SIG_new();
  ECDSA_SIG_set0(numbers, BN_bin2bn(bytes, 32, nullptr), BN_bin2bn(bytes + 32, 32, nullptr));
  unsigned char* der = nullptr;
  const int der_size = i2d_ECDSA_SIG(numbers, &der);
  const std::string der_text(reinterpret_cast<char*>(der), static_cast<size_t>(der_size));
  OPENSSL_free(der);
  ECDSA_SIG_free(numbers);
  for (const std::string& wrong : {der_text, raw.substr(0, 63), raw + '\0', '\0' + raw, raw + raw, raw.substr(0, 32),
                                   std::string(1, '\0'), '\0' + raw.substr(0, 32) + '\0' + raw.substr(32)}) {
    EXPECT_EQ(JwsRefusal(ReplaceSignature(token, wrong), SetOf({key})), "wrong_signature");
  }
}

TEST(JwsAttack, Ed25519Forms) {
  const SigningKey key = EdDsa();
  const std::string token = *SignJwt(key, "{}");
  const std::string signature = SignatureOf(token);
  // S and S + L sign the same (RFC 8032 section 5.1.7 refuses the latter).
  std::string greater = signature;
  const std::string order = FromHex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
  int carry = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    carry += static_cast<unsigned char>(signature[32 + i]) + static_cast<unsigned char>(order[i]);
    greater[32 + i] = static_cast<char>(carry & 0xff);
    carry >>= 8;
  }
  for (const std::string& wrong : {greater, signature.substr(0, 63), signature + '\0', std::string(64, '\0'),
                                   std::string(64, '\xff'), signature.substr(32) + signature.substr(0, 32)}) {
    EXPECT_EQ(JwsRefusal(ReplaceSignature(token, wrong), SetOf({key})), "wrong_signature");
  }
}

TEST(JwsAttack, KeysOfOthers) {
  EVP_PKEY* pkey = EVP_EC_gen("P-256");
  const SigningKey attacker = Signer(SigningKey::FromPem(PrivatePem(pkey), std::nullopt, "es"));
  EVP_PKEY_free(pkey);
  const std::string jwk = *attacker.verification_key().PublicJwk();
  const JwkSet keys = AllKeys();
  EXPECT_EQ(JwsRefusal(*SignJwt(attacker, "{}"), keys), "wrong_signature");
  for (const std::string& member :
       std::vector<std::string>{"\"jwk\":" + jwk, R"("jku":"https://attacker.example/jwks")", R"("x5c":["AAAA"])",
                                R"("x5u":"https://attacker.example/x")"}) {
    for (const char* start : {R"({"alg":"ES256","kid":"es",)", R"({"alg":"ES256",)"}) {
      EXPECT_EQ(JwsRefusal(Token(attacker, start + member + "}"), keys), "wrong_signature");
      EXPECT_EQ(JwsRefusal(Token(Es256(), start + member + "}"), keys), "none") << "they are not looked at";
    }
  }
}

TEST(JwsAttack, Kids) {
  const SigningKey key = Hs256("hs");
  const JwkSet keys = AllKeys();
  for (const char* kid : {"", "HS", "hs ", "hs\\u0001", "../../../../dev/null", "/dev/null", "' OR '1'='1", "hs/../hs",
                          "https://attacker.example/"}) {
    EXPECT_EQ(JwsRefusal(Token(key, R"({"alg":"HS256","kid":")" + std::string(kid) + "\"}"), keys), "unknown_key")
        << kid;
  }
  for (const char* kid : {"7", "null", "[\"hs\"]", "{}", "\"hs\\u0000\"", "\"\\ud800\""}) {
    EXPECT_EQ(JwsRefusal(Token(key, R"({"alg":"HS256","kid":)" + std::string(kid) + "}"), keys), "malformed") << kid;
  }
  EXPECT_EQ(JwsRefusal(Token(key, R"({"alg":"HS256","kid":"rs"})"), keys), "algorithm_refused");
}

TEST(JwsAttack, Extensions) {
  const SigningKey key = Hs256();
  for (const char* member : {R"("crit":["exp"],"exp":1)", R"("crit":["b64"],"b64":false)", R"("crit":[])",
                             R"("crit":null)", R"("crit":"exp")", R"("b64":true)", R"("b64":false)"}) {
    EXPECT_EQ(JwsRefusal(Token(key, R"({"alg":"HS256",)" + std::string(member) + "}"), SetOf({key})),
              "critical_extension")
        << member;
  }
}

TEST(JwsAttack, Headers) {
  const SigningKey key = Hs256();
  std::string deep = R"({"alg":"HS256","a":)" + std::string(1000, '[') + std::string(1000, ']') + "}";
  for (const std::string& header :
       std::vector<std::string>{"null",
                                "[]",
                                "\"HS256\"",
                                "{",
                                " ",
                                R"({"alg":"HS256"}{"alg":"none"})",
                                R"({"alg":"none","alg":"HS256"})",
                                R"({"alg":"HS256","alg":"HS256"})",
                                R"({"alg":"HS256","\u0061lg":"none"})",
                                R"({"alg":"HS256","kid":"hs","kid":"hs"})",
                                R"({"alg":"HS256","x":{"y":1,"y":2}})",
                                "{\"alg\":\"HS256\",\"x\":\"\xff\"}",
                                "\xEF\xBB\xBF{\"alg\":\"HS256\"}",
                                {"{\"alg\":\"HS256\"}\0", 16},
                                deep,
                                R"({"alg":"HS256","x":")" + std::string(10000, 'x') + "\"}"}) {
    EXPECT_EQ(JwsRefusal(Token(key, header), SetOf({key})), "malformed") << header.substr(0, 60);
  }
}

TEST(JwsAttack, Parts) {
  const SigningKey key = Hs256();
  const std::string token = *SignJwt(key, R"({"a":1})");
  const size_t first = token.find('.');
  const size_t last = token.rfind('.');
  const std::string header = token.substr(0, first);
  const std::string payload = token.substr(first + 1, last - first - 1);
  const std::string signature = token.substr(last + 1);
  for (const std::string& wrong : std::vector<std::string>{
           "", ".", "..", "...", header, header + "." + payload, header + "." + payload + ".",
           header + ".." + signature, "." + payload + "." + signature, token + ".", "." + token, token + ".AAAA",
           token + ".AAAA.AAAA", header + "." + signature, "{}." + payload + "." + signature,
           R"({"payload":")" + payload + R"(","protected":")" + header + R"(","signature":")" + signature + "\"}",
           "Bearer " + token}) {
    EXPECT_EQ(JwsRefusal(wrong, SetOf({key})), "malformed") << wrong;
  }
  // The payload apart (RFC 7515 appendix F), with the signature of nothing.
  EXPECT_EQ(JwsRefusal(Token(key, R"({"alg":"HS256"})", ""), SetOf({key})), "malformed");
  EXPECT_EQ(JwsRefusal(header + "." + payload + "." + signature, SetOf({key})), "none");
}

TEST(JwsAttack, Base64Url) {
  const SigningKey key = Hs256("");
  const JwkSet keys = SetOf({key});
  const std::string header = Base64UrlEncode(R"({"alg":"HS256"})");
  const std::string payload = Base64UrlEncode(R"({"a":"??>>"})");
  ASSERT_NE(payload.find_first_of("-_"), std::string::npos);
  const auto standard = [](std::string text) {
    for (char& c : text) c = c == '-' ? '+' : c == '_' ? '/' : c;
    return text;
  };
  // Signed as they stand: each is wrong only because it is not the base64url of anything.
  ASSERT_EQ(JwsRefusal(WithSignature(key, header + "." + payload), keys), "none");
  for (const auto& [bad_header, bad_payload] :
       std::vector<std::pair<std::string, std::string>>{{header + "=", payload},
                                                        {header + " ", payload},
                                                        {" " + header, payload},
                                                        {header.substr(0, 4) + "\n" + header.substr(4), payload},
                                                        {header + "A", payload},
                                                        {header, payload + "="},
                                                        {header, payload + " "},
                                                        {header, "\r\n" + payload},
                                                        {header, standard(payload)},
                                                        {header, payload + "#"},
                                                        {header, payload + std::string(1, '\0')},
                                                        {header, payload + "\xff"},
                                                        {header, "e31"},
                                                        {header, "e30AA"}}) {
    EXPECT_EQ(JwsRefusal(WithSignature(key, bad_header + "." + bad_payload), keys), "malformed")
        << bad_header << "." << bad_payload;
  }
  const std::string token = *SignJwt(key, "{}");
  for (const char* appended : {"=", "==", " ", "\n", "A", "AA", "AAA", "%3D"}) {
    EXPECT_NE(JwsRefusal(token + appended, keys), "none") << appended;
  }
  // 43 characters have two bits to spare: each of the three others that say the same 32 bytes.
  const std::string alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  for (size_t bits = 1; bits < 4; ++bits) {
    const std::string same = token.substr(0, token.size() - 1) + alphabet[alphabet.find(token.back()) + bits];
    EXPECT_EQ(JwsRefusal(same, keys), "malformed");
  }
}

}  // namespace
}  // namespace token_refresh
