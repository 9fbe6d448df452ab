// Keys for the tests of JWK, JWS and JWT, made when they are first wanted, and tokens put together or taken apart
// by hand.
#pragma once

#include <gtest/gtest.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <initializer_list>
#include <string>
#include <string_view>

#include "core/encoding.h"
#include "core/hex_decode.h"
#include "core/jwk.h"
#include "core/jws.h"
#include "core/jws_key.h"

namespace token_refresh {

constexpr std::string_view kFakeSecret = "fake-secret-of-more-than-32-bytes";

inline std::string BytesOfBio(BIO* bio) {
  char* bytes = nullptr;
  const long size = BIO_get_mem_data(bio, &bytes);
  std::string text(bytes, static_cast<size_t>(size));
  BIO_free(bio);
  return text;
}

inline std::string PrivatePem(EVP_PKEY* key) {
  BIO* bio = BIO_new(BIO_s_mem());
  EXPECT_EQ(PEM_write_bio_PKCS8PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr), 1);
  return BytesOfBio(bio);
}

inline std::string PublicPem(EVP_PKEY* key) {
  BIO* bio = BIO_new(BIO_s_mem());
  EXPECT_EQ(PEM_write_bio_PUBKEY(bio, key), 1);
  return BytesOfBio(bio);
}

inline std::string PublicDer(EVP_PKEY* key) {
  BIO* bio = BIO_new(BIO_s_mem());
  EXPECT_EQ(i2d_PUBKEY_bio(bio, key), 1);
  return BytesOfBio(bio);
}

inline EVP_PKEY* RsaPkey() {
  static EVP_PKEY* key = EVP_RSA_gen(2048);
  return key;
}

inline EVP_PKEY* EcPkey() {
  static EVP_PKEY* key = EVP_EC_gen("P-256");
  return key;
}

inline EVP_PKEY* EdPkey() {
  static EVP_PKEY* key = EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519");
  return key;
}

inline SigningKey Signer(Result<SigningKey> key) {
  EXPECT_TRUE(key) << key.error().message;
  return *std::move(key);
}

inline SigningKey Hs256(std::string kid = "hs") { return Signer(SigningKey::FromSecret(kFakeSecret, std::move(kid))); }
inline SigningKey Rs256(std::string kid = "rs") {
  return Signer(SigningKey::FromPem(PrivatePem(RsaPkey()), JwsAlgorithm::kRs256, std::move(kid)));
}
inline SigningKey Ps256(std::string kid = "ps") {
  return Signer(SigningKey::FromPem(PrivatePem(RsaPkey()), JwsAlgorithm::kPs256, std::move(kid)));
}
inline SigningKey Es256(std::string kid = "es") {
  return Signer(SigningKey::FromPem(PrivatePem(EcPkey()), std::nullopt, std::move(kid)));
}
inline SigningKey EdDsa(std::string kid = "ed") {
  return Signer(SigningKey::FromPem(PrivatePem(EdPkey()), std::nullopt, std::move(kid)));
}

inline JwkSet SetOf(std::initializer_list<SigningKey> keys) {
  JwkSet set;
  for (const SigningKey& key : keys) set.Add(key.verification_key());
  return set;
}

// Header and payload as they are, whatever they say, with a dot between them.
inline std::string SignedText(std::string_view header, std::string_view payload) {
  return Base64UrlEncode(header) + "." + Base64UrlEncode(payload);
}

// The same signed, or any other text.
inline std::string WithSignature(const SigningKey& key, const std::string& signed_text) {
  auto signature = key.Sign(signed_text);
  EXPECT_TRUE(signature);
  return signed_text + "." + Base64UrlEncode(*signature);
}

inline std::string Token(const SigningKey& key, std::string_view header, std::string_view payload = "{}") {
  return WithSignature(key, SignedText(header, payload));
}

// The same with a secret of any kind, or none.
inline std::string Hmac(std::string_view secret, const std::string& signed_text) {
  auto mac = HmacSha256(secret, signed_text);
  EXPECT_TRUE(mac);
  return signed_text + "." + Base64UrlEncode(BytesOf(*mac));
}

inline std::string SignatureOf(const std::string& token) {
  return std::string(Base64UrlDecode(token.substr(token.rfind('.') + 1))->view());
}

inline std::string ReplaceSignature(const std::string& token, std::string_view signature) {
  return token.substr(0, token.rfind('.') + 1) + Base64UrlEncode(signature);
}

// The word for why it is refused, "none" if it is not.
inline std::string JwsRefusal(const std::string& token, const JwkSet& keys, const JwsRules& rules = {}) {
  const VerifiedJws verified = VerifyJws(token, keys, rules);
  EXPECT_TRUE(verified.ok() || verified.payload.empty());
  EXPECT_EQ(ERR_peek_error(), 0u);
  return std::string(JwtFailureWord(verified.failure));
}

inline std::string FromHex(std::string_view hex) {
  std::string bytes(hex.size() / 2, '\0');
  EXPECT_TRUE(HexDecodeInto(hex, bytes.data()));
  return bytes;
}

// The modulus of RsaPkey, 256 bytes.
inline std::string RsaModulus() {
  BIGNUM* modulus = nullptr;
  EXPECT_EQ(EVP_PKEY_get_bn_param(RsaPkey(), "n", &modulus), 1);
  std::string bytes(static_cast<size_t>(BN_num_bytes(modulus)), '\0');
  BN_bn2bin(modulus, reinterpret_cast<unsigned char*>(bytes.data()));
  BN_free(modulus);
  return bytes;
}

}  // namespace token_refresh
