// Lets the n-th call into OpenSSL fail, for every n, those that OpenSSL makes itself among them: the JWS code must
// say so, never call a token good or bad for it, leave no queued error behind, and work again afterwards.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>

#include <functional>
#include <string>
#include <utility>

#include "core/asymmetric_key.h"
#include "core/jws.h"
#include "core/openssl_handles.h"
#include "jose_keys.h"

namespace {

// Calls until one fails; negative: none does.
int calls_left = -1;

bool FailThisCall() {
  if (calls_left < 0) return false;
  if (calls_left-- > 0) return false;
  ERR_raise(ERR_LIB_USER, ERR_R_MALLOC_FAILURE);
  return true;
}

// The function that one of the definitions below stands in front of, or a failure.
template <class Function, class... Arguments>
auto CallOrFail(const char* name, Function*, Arguments... arguments) {
  using Answer = decltype(std::declval<Function*>()(arguments...));
  if (FailThisCall()) return Answer{};
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name))(arguments...);
}

}  // namespace

#define CALL_OR_FAIL(function, ...) CallOrFail(#function, &function, __VA_ARGS__)

extern "C" {

EVP_MAC* EVP_MAC_fetch(OSSL_LIB_CTX* library, const char* name, const char* properties) {
  return CALL_OR_FAIL(EVP_MAC_fetch, library, name, properties);
}
EVP_MAC_CTX* EVP_MAC_CTX_new(EVP_MAC* mac) { return CALL_OR_FAIL(EVP_MAC_CTX_new, mac); }
int EVP_MAC_init(EVP_MAC_CTX* context, const unsigned char* key, size_t size, const OSSL_PARAM params[]) {
  return CALL_OR_FAIL(EVP_MAC_init, context, key, size, params);
}
int EVP_MAC_update(EVP_MAC_CTX* context, const unsigned char* data, size_t size) {
  return CALL_OR_FAIL(EVP_MAC_update, context, data, size);
}
int EVP_MAC_final(EVP_MAC_CTX* context, unsigned char* out, size_t* written, size_t size) {
  return CALL_OR_FAIL(EVP_MAC_final, context, out, written, size);
}
EVP_PKEY_CTX* EVP_PKEY_CTX_new_from_name(OSSL_LIB_CTX* library, const char* name, const char* properties) {
  return CALL_OR_FAIL(EVP_PKEY_CTX_new_from_name, library, name, properties);
}
EVP_PKEY_CTX* EVP_PKEY_CTX_new_from_pkey(OSSL_LIB_CTX* library, EVP_PKEY* key, const char* properties) {
  return CALL_OR_FAIL(EVP_PKEY_CTX_new_from_pkey, library, key, properties);
}
int EVP_PKEY_fromdata_init(EVP_PKEY_CTX* context) { return CALL_OR_FAIL(EVP_PKEY_fromdata_init, context); }
int EVP_PKEY_fromdata(EVP_PKEY_CTX* context, EVP_PKEY** key, int selection, OSSL_PARAM params[]) {
  return CALL_OR_FAIL(EVP_PKEY_fromdata, context, key, selection, params);
}
EVP_PKEY* EVP_PKEY_new_raw_public_key_ex(OSSL_LIB_CTX* library, const char* type, const char* properties,
                                         const unsigned char* bytes, size_t size) {
  return CALL_OR_FAIL(EVP_PKEY_new_raw_public_key_ex, library, type, properties, bytes, size);
}
int EVP_PKEY_get_raw_public_key(const EVP_PKEY* key, unsigned char* out, size_t* size) {
  return CALL_OR_FAIL(EVP_PKEY_get_raw_public_key, key, out, size);
}
int EVP_PKEY_get_bn_param(const EVP_PKEY* key, const char* name, BIGNUM** number) {
  return CALL_OR_FAIL(EVP_PKEY_get_bn_param, key, name, number);
}
OSSL_PARAM_BLD* OSSL_PARAM_BLD_new() {
  return FailThisCall() ? nullptr
                        : reinterpret_cast<decltype(&OSSL_PARAM_BLD_new)>(dlsym(RTLD_NEXT, "OSSL_PARAM_BLD_new"))();
}
OSSL_PARAM* OSSL_PARAM_BLD_to_param(OSSL_PARAM_BLD* builder) { return CALL_OR_FAIL(OSSL_PARAM_BLD_to_param, builder); }
BIGNUM* BN_bin2bn(const unsigned char* bytes, int size, BIGNUM* number) {
  return CALL_OR_FAIL(BN_bin2bn, bytes, size, number);
}
ECDSA_SIG* d2i_ECDSA_SIG(ECDSA_SIG** signature, const unsigned char** der, long size) {
  return CALL_OR_FAIL(d2i_ECDSA_SIG, signature, der, size);
}
int i2d_ECDSA_SIG(const ECDSA_SIG* signature, unsigned char** der) {
  return CALL_OR_FAIL(i2d_ECDSA_SIG, signature, der);
}
BIO* BIO_new_mem_buf(const void* bytes, int size) { return CALL_OR_FAIL(BIO_new_mem_buf, bytes, size); }
EVP_PKEY* PEM_read_bio_PrivateKey_ex(BIO* source, EVP_PKEY** key, pem_password_cb* callback, void* data,
                                     OSSL_LIB_CTX* library, const char* properties) {
  return CALL_OR_FAIL(PEM_read_bio_PrivateKey_ex, source, key, callback, data, library, properties);
}
int EVP_PKEY_CTX_set_signature_md(EVP_PKEY_CTX* context, const EVP_MD* md) {
  return CALL_OR_FAIL(EVP_PKEY_CTX_set_signature_md, context, md);
}
int EVP_PKEY_CTX_set_rsa_padding(EVP_PKEY_CTX* context, int padding) {
  return CALL_OR_FAIL(EVP_PKEY_CTX_set_rsa_padding, context, padding);
}
int EVP_PKEY_CTX_set_rsa_pss_saltlen(EVP_PKEY_CTX* context, int size) {
  return CALL_OR_FAIL(EVP_PKEY_CTX_set_rsa_pss_saltlen, context, size);
}
int EVP_PKEY_sign(EVP_PKEY_CTX* context, unsigned char* out, size_t* written, const unsigned char* in, size_t size) {
  return CALL_OR_FAIL(EVP_PKEY_sign, context, out, written, in, size);
}
int EVP_PKEY_verify(EVP_PKEY_CTX* context, const unsigned char* signature, size_t signature_size,
                    const unsigned char* in, size_t size) {
  return CALL_OR_FAIL(EVP_PKEY_verify, context, signature, signature_size, in, size);
}
int EVP_DigestSignInit(EVP_MD_CTX* context, EVP_PKEY_CTX** pkey_context, const EVP_MD* md, ENGINE* engine,
                       EVP_PKEY* key) {
  return CALL_OR_FAIL(EVP_DigestSignInit, context, pkey_context, md, engine, key);
}
int EVP_DigestSign(EVP_MD_CTX* context, unsigned char* out, size_t* written, const unsigned char* in, size_t size) {
  return CALL_OR_FAIL(EVP_DigestSign, context, out, written, in, size);
}
int EVP_DigestVerifyInit(EVP_MD_CTX* context, EVP_PKEY_CTX** pkey_context, const EVP_MD* md, ENGINE* engine,
                         EVP_PKEY* key) {
  return CALL_OR_FAIL(EVP_DigestVerifyInit, context, pkey_context, md, engine, key);
}
int EVP_DigestVerify(EVP_MD_CTX* context, const unsigned char* signature, size_t signature_size,
                     const unsigned char* in, size_t size) {
  return CALL_OR_FAIL(EVP_DigestVerify, context, signature, signature_size, in, size);
}

}  // extern "C"

namespace token_refresh {
namespace {

constexpr int kManyCalls = 10000;

// Runs the operation with the first call failing, then the second, until there is no further one; returns how
// many failures it reported. OpenSSL gets over some of those inside.
int FailEachCall(const std::function<Status()>& operation) {
  int failures = 0;
  for (int n = 0; n < kManyCalls; ++n) {
    calls_left = n;
    const Status status = operation();
    const bool has_failed = calls_left < 0;
    calls_left = -1;
    EXPECT_EQ(ERR_peek_error(), 0u) << "left in the queue by call " << n;
    if (!has_failed) return failures;
    if (status) continue;
    ++failures;
    EXPECT_EQ(status.error().code, ErrorCode::kInternal) << n;
    EXPECT_EQ(status.error().message.rfind("OpenSSL cannot ", 0), 0u) << n << ": " << status.error().message;
    const Status again = operation();
    EXPECT_TRUE(again) << "does not work again after call " << n << " failed: " << again.error().message;
  }
  ADD_FAILURE() << "never ended";
  return failures;
}

template <class T>
Status StatusOf(const Result<T>& result) {
  return result ? Ok() : Status(result.error());
}

TEST(JwsFault, KeysFromPem) {
  for (EVP_PKEY* pkey : {RsaPkey(), EcPkey(), EdPkey()}) {
    const std::string pem = PrivatePem(pkey);
    EXPECT_GE(FailEachCall([&] { return StatusOf(SigningKey::FromPem(pem)); }), 6);
  }
}

TEST(JwsFault, KeysFromJwk) {
  for (const SigningKey& key : {Rs256(), Es256(), EdDsa()}) {
    const std::string jwk = *key.verification_key().PublicJwk();
    EXPECT_GE(FailEachCall([&] { return StatusOf(ParseJwk(jwk)); }), 2);
    // Whatever is wrong with the machine is not skipped as if it were wrong with the key.
    EXPECT_GE(FailEachCall([&] { return StatusOf(ParseJwks("{\"keys\":[" + jwk + "]}")); }), 2);
  }
  EXPECT_EQ(FailEachCall([] { return StatusOf(SigningKey::FromSecret(kFakeSecret, "k")); }), 3);
}

TEST(JwsFault, Sign) {
  EXPECT_GE(FailEachCall([key = Hs256()] { return StatusOf(SignJwt(key, "{}")); }), 3);
  EXPECT_GE(FailEachCall([key = Rs256()] { return StatusOf(SignJwt(key, "{}")); }), 1);
  EXPECT_GE(FailEachCall([key = Es256()] { return StatusOf(SignJwt(key, "{}")); }), 2);
  EXPECT_GE(FailEachCall([key = EdDsa()] { return StatusOf(SignJwt(key, "{}")); }), 2);
}

// In turn, so that what a key prepares for an algorithm is among what fails.
TEST(JwsFault, AnRsaKeyOfTwoAlgorithms) {
  auto key = AsymmetricKey::FromPrivatePem(PrivatePem(RsaPkey()));
  ASSERT_TRUE(key);
  EXPECT_GE(FailEachCall([&] {
              for (const JwsAlgorithm algorithm : {JwsAlgorithm::kPs256, JwsAlgorithm::kRs256}) {
                auto signature = key->Sign(algorithm, "message");
                if (!signature) return StatusOf(signature);
                auto right = key->Verify(algorithm, "message", *signature);
                if (!right) return StatusOf(right);
                EXPECT_TRUE(*right);
              }
              return Ok();
            }),
            18);
}

TEST(JwsFault, Verify) {
  for (const auto& [key, calls] : {std::pair(Hs256(), 3), {Rs256(), 1}, {Es256(), 4}, {EdDsa(), 2}}) {
    const JwkSet keys = SetOf({key});
    auto token = SignJwt(key, "{}");
    ASSERT_TRUE(token);
    EXPECT_GE(FailEachCall([&] {
                const VerifiedJws verified = VerifyJws(*token, keys);
                if (verified.ok()) return Ok();
                EXPECT_EQ(verified.failure, JwtFailure::kInternal);
                EXPECT_TRUE(verified.payload.empty());
                return Status(OpensslError("check a token"));
              }),
              calls)
        << JwsAlgorithmName(key.algorithm());
  }
}

}  // namespace
}  // namespace token_refresh
