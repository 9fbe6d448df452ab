// What attackers send to whoever has an RSA key; the list is in jws_attack_test.cpp.
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/asymmetric_key.h"
#include "core/encoding.h"
#include "jose_keys.h"

namespace token_refresh {
namespace {

// One RSA key under two names: what is bound to one padding does not take the other.
TEST(JwsAttack, PaddingConfusion) {
  const std::string rs_header = R"({"alg":"RS256"})";
  const std::string ps_header = R"({"alg":"PS256"})";
  const JwkSet rs_only = SetOf({Rs256()});
  const JwkSet ps_only = SetOf({Ps256()});
  EXPECT_EQ(JwsRefusal(Token(Ps256(), ps_header), rs_only), "algorithm_refused");
  EXPECT_EQ(JwsRefusal(Token(Rs256(), rs_header), ps_only), "algorithm_refused");
  EXPECT_EQ(JwsRefusal(Token(Ps256(), rs_header), rs_only), "wrong_signature");
  EXPECT_EQ(JwsRefusal(Token(Rs256(), ps_header), ps_only), "wrong_signature");
  JwkSet either;
  auto unbound = AsymmetricKey::FromPrivatePem(PrivatePem(RsaPkey()));
  ASSERT_TRUE(unbound);
  either.Add(*VerificationKey::FromKey(std::move(*unbound), std::nullopt, ""));
  // In turn, because the key keeps what it prepared for the last algorithm.
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(JwsRefusal(Token(Rs256(), rs_header), either), "none");
    EXPECT_EQ(JwsRefusal(Token(Ps256(), rs_header), either), "wrong_signature");
    EXPECT_EQ(JwsRefusal(Token(Ps256(), ps_header), either), "none");
    EXPECT_EQ(JwsRefusal(Token(Rs256(), ps_header), either), "wrong_signature");
  }
  EXPECT_EQ(JwsRefusal(Hmac(PublicPem(RsaPkey()), SignedText(R"({"alg":"HS256"})", "{}")), either),
            "algorithm_refused");
}

TEST(JwsAttack, RsaSignatures) {
  for (const SigningKey& key : {Rs256("k"), Ps256("k")}) {
    const JwkSet keys = SetOf({key});
    const std::string token = *SignJwt(key, "{}");
    const std::string signature = SignatureOf(token);
    ASSERT_EQ(signature.size(), 256u);
    std::string n_minus_1 = RsaModulus();
    --n_minus_1.back();  // n is odd
    for (const std::string& wrong : {signature + '\0', '\0' + signature, signature.substr(1), signature.substr(0, 255),
                                     signature + signature, std::string(256, '\0'), std::string(255, '\0') + '\1',
                                     RsaModulus(), n_minus_1, std::string(256, '\xff'), std::string(1, '\0')}) {
      EXPECT_EQ(JwsRefusal(ReplaceSignature(token, wrong), keys), "wrong_signature");
    }
    EXPECT_EQ(JwsRefusal(token, keys), "none");
  }
}

// The number stays the same without its leading zero, so that only the length tells.
TEST(JwsAttack, PssWithoutItsLeadingZero) {
  const SigningKey key = Ps256();
  std::string token;
  do {
    token = *SignJwt(key, "{}");
  } while (SignatureOf(token)[0] != '\0');
  EXPECT_EQ(JwsRefusal(token, SetOf({key})), "none");
  EXPECT_EQ(JwsRefusal(ReplaceSignature(token, SignatureOf(token).substr(1)), SetOf({key})), "wrong_signature");
}

// The private key used on 256 bytes as they are.
std::string RawRsa(std::string padded) {
  EVP_PKEY_CTX* context = EVP_PKEY_CTX_new(RsaPkey(), nullptr);
  size_t written = padded.size();
  auto* bytes = reinterpret_cast<unsigned char*>(padded.data());
  std::string signature(padded.size(), '\0');
  EXPECT_EQ(EVP_PKEY_sign_init(context), 1);
  EXPECT_EQ(EVP_PKEY_CTX_set_rsa_padding(context, RSA_NO_PADDING), 1);
  EXPECT_EQ(EVP_PKEY_sign(context, reinterpret_cast<unsigned char*>(signature.data()), &written, bytes, padded.size()),
            1);
  EVP_PKEY_CTX_free(context);
  return signature;
}

// What is behind the padding of PKCS #1 v1.5 must be one encoding and nothing else (RFC 8017 section 9.2).
TEST(JwsAttack, Pkcs1ByHand) {
  const std::string text = SignedText(R"({"alg":"RS256"})", "{}");
  auto sha256 = Sha256(text);
  ASSERT_TRUE(sha256);
  const std::string hash(BytesOf(*sha256));
  const auto refusal = [&](const std::string& start, const std::string& info, char fill = '\xff') {
    const std::string padded = start + std::string(256 - start.size() - info.size(), fill) + info;
    return JwsRefusal(text + "." + Base64UrlEncode(RawRsa(padded)), SetOf({Rs256()}));
  };
  const std::string start("\0\1", 2);
  const std::string zero(1, '\0');
  const std::string oid = FromHex("0609608648016503040201");
  const std::string right = FromHex("3031300d") + oid + FromHex("05000420") + hash;
  EXPECT_EQ(refusal(start, zero + right), "none");
  for (const std::string& info : std::vector<std::string>{
           zero + FromHex("308131300d") + oid + FromHex("05000420") + hash,  // a long form of the length
           zero + FromHex("303230810d") + oid + FromHex("05000420") + hash,  // the same inside
           zero + FromHex("302f300b") + oid + FromHex("0420") + hash,        // no parameters
           zero + FromHex("3080300d") + oid + FromHex("05000420") + hash + FromHex("0000"),  // no length
           zero + FromHex("3031300d0609608648016503040203") + FromHex("05000420") + hash,    // the name of SHA-512
           zero + right + zero, zero + hash, right, zero + zero + right, zero + right.substr(0, 50)}) {
    EXPECT_EQ(refusal(start, info), "wrong_signature");
  }
  // Garbage behind, where a careless reader stops: forgeable without the key when the exponent is 3.
  EXPECT_EQ(refusal(start + std::string(8, '\xff') + zero + right, "", 'x'), "wrong_signature");
  EXPECT_EQ(refusal(std::string("\0\2", 2), zero + right), "wrong_signature");
  EXPECT_EQ(refusal(std::string("\0\0", 2), zero + right), "wrong_signature");
  EXPECT_EQ(refusal(start, zero + right, '\xfe'), "wrong_signature");
}

// A signature of RSA without the hash's name, with another hash, and with a salt of another length.
TEST(JwsAttack, RsaPaddingsThatAreNotOfTheAlgorithm) {
  const std::string text = SignedText(R"({"alg":"RS256"})", "{}");
  const std::string pss_text = SignedText(R"({"alg":"PS256"})", "{}");
  const auto sign = [](const std::string& message, const EVP_MD* md, int padding, int salt) {
    EVP_PKEY_CTX* context = EVP_PKEY_CTX_new(RsaPkey(), nullptr);
    std::string digest(EVP_MAX_MD_SIZE, '\0');
    unsigned int size = 0;
    EVP_Digest(message.data(), message.size(), reinterpret_cast<unsigned char*>(digest.data()), &size,
               md == nullptr ? EVP_sha256() : md, nullptr);
    std::string signature(256, '\0');
    size_t written = signature.size();
    EXPECT_EQ(EVP_PKEY_sign_init(context), 1);
    EXPECT_EQ(EVP_PKEY_CTX_set_rsa_padding(context, padding), 1);
    EXPECT_TRUE(md == nullptr || EVP_PKEY_CTX_set_signature_md(context, md) == 1);
    EXPECT_TRUE(padding == RSA_PKCS1_PADDING || EVP_PKEY_CTX_set_rsa_pss_saltlen(context, salt) == 1);
    EXPECT_EQ(EVP_PKEY_sign(context, reinterpret_cast<unsigned char*>(signature.data()), &written,
                            reinterpret_cast<unsigned char*>(digest.data()), size),
              1);
    EVP_PKEY_CTX_free(context);
    return message + "." + Base64UrlEncode(signature);
  };
  const JwkSet keys = SetOf({Rs256(), Ps256()});
  EXPECT_EQ(JwsRefusal(sign(text, EVP_sha256(), RSA_PKCS1_PADDING, 0), keys), "none");
  EXPECT_EQ(JwsRefusal(sign(text, EVP_sha1(), RSA_PKCS1_PADDING, 0), keys), "wrong_signature");
  EXPECT_EQ(JwsRefusal(sign(text, EVP_sha512(), RSA_PKCS1_PADDING, 0), keys), "wrong_signature");
  EXPECT_EQ(JwsRefusal(sign(text, nullptr, RSA_PKCS1_PADDING, 0), keys), "wrong_signature");
  EXPECT_EQ(JwsRefusal(sign(pss_text, EVP_sha256(), RSA_PKCS1_PSS_PADDING, 32), keys), "none");
  for (const int salt : {0, 20, 31, 33, 64}) {
    EXPECT_EQ(JwsRefusal(sign(pss_text, EVP_sha256(), RSA_PKCS1_PSS_PADDING, salt), keys), "wrong_signature") << salt;
  }
  EXPECT_EQ(JwsRefusal(sign(pss_text, EVP_sha512(), RSA_PKCS1_PSS_PADDING, 32), keys), "wrong_signature");
}

}  // namespace
}  // namespace token_refresh
