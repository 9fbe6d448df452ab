// Lets the n-th call into OpenSSL fail, for every n: the core must say so, leave
// no plaintext and no queued error behind, and work again afterwards.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <functional>
#include <string>

#include "core/encoding.h"
#include "core/hex_cipher.h"
#include "core/sealed_box.h"

namespace {

// Calls until one fails; negative: none does.
int calls_left = -1;

bool no_randomness = false;

bool FailThisCall() {
  if (calls_left < 0) return false;
  if (calls_left-- > 0) return false;
  ERR_raise(ERR_LIB_USER, ERR_R_MALLOC_FAILURE);
  return true;
}

// The function that the definition below stands in front of.
template <class Function>
Function* Real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

int EVP_CipherInit_ex2(EVP_CIPHER_CTX* context, const EVP_CIPHER* cipher, const unsigned char* key,
                       const unsigned char* iv, int direction, const OSSL_PARAM params[]) {
  static auto* real = Real<decltype(EVP_CipherInit_ex2)>("EVP_CipherInit_ex2");
  return FailThisCall() ? 0 : real(context, cipher, key, iv, direction, params);
}

int EVP_CipherUpdate(EVP_CIPHER_CTX* context, unsigned char* out, int* written, const unsigned char* in, int size) {
  static auto* real = Real<decltype(EVP_CipherUpdate)>("EVP_CipherUpdate");
  return FailThisCall() ? 0 : real(context, out, written, in, size);
}

int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX* context, int type, int size, void* data) {
  static auto* real = Real<decltype(EVP_CIPHER_CTX_ctrl)>("EVP_CIPHER_CTX_ctrl");
  return FailThisCall() ? 0 : real(context, type, size, data);
}

int EVP_EncryptUpdate(EVP_CIPHER_CTX* context, unsigned char* out, int* written, const unsigned char* in, int size) {
  static auto* real = Real<decltype(EVP_EncryptUpdate)>("EVP_EncryptUpdate");
  return FailThisCall() ? 0 : real(context, out, written, in, size);
}

int EVP_DigestUpdate(EVP_MD_CTX* context, const void* data, size_t size) {
  static auto* real = Real<decltype(EVP_DigestUpdate)>("EVP_DigestUpdate");
  return FailThisCall() ? 0 : real(context, data, size);
}

unsigned char* HMAC(const EVP_MD* digest, const void* key, int key_size, const unsigned char* data, size_t size,
                    unsigned char* mac, unsigned int* mac_size) {
  static auto* real = Real<decltype(HMAC)>("HMAC");
  return FailThisCall() ? nullptr : real(digest, key, key_size, data, size, mac, mac_size);
}

int RAND_bytes(unsigned char* out, int size) {
  static auto* real = Real<decltype(RAND_bytes)>("RAND_bytes");
  return no_randomness || FailThisCall() ? 0 : real(out, size);
}

}  // extern "C"

namespace token_refresh {
namespace {

constexpr SealedPlace kPlace = {"token_refresh.credential", "42", "access_token"};

// Runs the operation with the first call failing, then the second, until it
// succeeds; returns how many calls could fail.
int FailEachCall(const std::function<Status()>& operation) {
  for (int n = 0; n < 100; ++n) {
    calls_left = n;
    const Status status = operation();
    calls_left = -1;
    EXPECT_EQ(ERR_peek_error(), 0u) << "left in the queue by call " << n;
    if (status) return n;
    EXPECT_EQ(status.error().code, ErrorCode::kInternal);
    EXPECT_EQ(status.error().message.rfind("OpenSSL cannot ", 0), 0u) << status.error().message;
    EXPECT_TRUE(operation()) << "does not work again after call " << n << " failed";
  }
  ADD_FAILURE() << "never succeeded";
  return 0;
}

KeyRing OneKey(char fill) {
  auto ring = KeyRing::Parse("main " + Base64Encode(std::string(kKeyBytes, fill)));
  EXPECT_TRUE(ring);
  return std::move(ring).value();
}

TEST(OpensslFault, Parse) {
  EXPECT_GE(FailEachCall([] {
              auto ring = KeyRing::Parse("main " + Base64Encode(std::string(kKeyBytes, 1)));
              return ring ? Ok() : Status(ring.error());
            }),
            2);
}

TEST(OpensslFault, SealAndOpen) {
  // Two keys in turn, so that the key set-up is among what fails.
  const KeyRing first = OneKey(1);
  const KeyRing second = OneKey(2);
  EXPECT_GE(FailEachCall([&] {
              for (const KeyRing* ring : {&first, &second}) {
                auto sealed = Seal(*ring, kPlace, "fake");
                if (!sealed) return Status(sealed.error());
                auto opened = Open(*ring, kPlace, *sealed);
                if (!opened) return Status(opened.error());
              }
              return Ok();
            }),
            20);
}

TEST(OpensslFault, OpenLeavesNoPlaintext) {
  const KeyRing ring = OneKey(1);
  auto sealed = Seal(ring, kPlace, "fake");
  ASSERT_TRUE(sealed);
  EXPECT_GE(FailEachCall([&] {
              std::string out(4, 'p');
              Status opened = OpenInto(ring, kPlace, *sealed, out.data());
              EXPECT_EQ(out, opened ? std::string("fake") : std::string(4, '\0'));
              return opened;
            }),
            5);
}

TEST(OpensslFault, NoRandomness) {
  const KeyRing ring = OneKey(1);
  constexpr int kMoreThanAPool = 200;
  no_randomness = true;
  int sealed = 0;
  while (sealed < kMoreThanAPool && Seal(ring, kPlace, "fake")) ++sealed;
  auto refused = Seal(ring, kPlace, "fake");
  no_randomness = false;
  EXPECT_LT(sealed, kMoreThanAPool);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kInternal);
  EXPECT_NE(refused.error().message.find("random"), std::string::npos) << refused.error().message;
  EXPECT_TRUE(Seal(ring, kPlace, "fake"));
}

TEST(OpensslFault, HexCipher) {
  const ApplicationKey key{"app", {}, Secret(std::string(kKeyBytes, 'k')), {}};
  EXPECT_GE(FailEachCall([&] {
              auto sealed = SealHexCipher(key, "fake", 16);
              if (!sealed) return Status(sealed.error());
              auto opened = OpenHexCipher(key, *sealed);
              if (!opened) return Status(opened.error());
              EXPECT_EQ(opened->view(), "fake");
              return Ok();
            }),
            10);
}

TEST(OpensslFault, HexCipherWithoutRandomness) {
  const ApplicationKey key{"app", {}, Secret(std::string(kKeyBytes, 'k')), {}};
  constexpr int kMoreThanAPool = 200;
  no_randomness = true;
  int sealed = 0;
  while (sealed < kMoreThanAPool && SealHexCipher(key, "fake", 12)) ++sealed;
  auto refused = SealHexCipher(key, "fake", 12);
  no_randomness = false;
  EXPECT_LT(sealed, kMoreThanAPool);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kInternal);
  EXPECT_TRUE(SealHexCipher(key, "fake", 12));
}

TEST(OpensslFault, Sha256) {
  EXPECT_GE(FailEachCall([] {
              auto digest = Sha256("abc");
              return digest ? Ok() : Status(digest.error());
            }),
            1);
}

}  // namespace
}  // namespace token_refresh
