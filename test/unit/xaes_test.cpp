// The bare AEAD of sealed_box.h against the vectors of https://c2sp.org/XAES-256-GCM.
#include <gtest/gtest.h>
#include <openssl/evp.h>

#include <string>

#include "core/encoding.h"
#include "core/sealed_box.h"

namespace token_refresh {
namespace {

constexpr std::string_view kNonce = "ABCDEFGHIJKLMNOPQRSTUVWX";
constexpr size_t kTagBytes = 16;

KeyRing RingOf(std::string_view key) {
  auto ring = KeyRing::Parse("vector " + Base64Encode(key));
  EXPECT_TRUE(ring);
  return std::move(ring).value();
}

void CheckVector(char key_fill, std::string_view additional_data, std::string_view expected_hex) {
  const KeyRing ring = RingOf(std::string(kKeyBytes, key_fill));
  const std::string_view plaintext = "XAES-256-GCM";
  std::string sealed(plaintext.size() + kTagBytes, '\0');
  ASSERT_TRUE(XaesSeal(ring.primary(), kNonce, additional_data, plaintext, sealed.data()));
  EXPECT_EQ(HexEncode(sealed), expected_hex);
  std::string opened(plaintext.size(), '\0');
  ASSERT_TRUE(XaesOpen(ring.primary(), kNonce, additional_data, sealed, opened.data()));
  EXPECT_EQ(opened, plaintext);
}

TEST(Xaes, PublishedVectors) {
  CheckVector(1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271");
  CheckVector(3, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d");
}

std::string Shake128(std::string_view input, size_t output_bytes) {
  std::string output(output_bytes, '\0');
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  EXPECT_EQ(EVP_DigestInit_ex(context, EVP_shake128(), nullptr), 1);
  EXPECT_EQ(EVP_DigestUpdate(context, input.data(), input.size()), 1);
  EXPECT_EQ(EVP_DigestFinalXOF(context, reinterpret_cast<unsigned char*>(output.data()), output_bytes), 1);
  EVP_MD_CTX_free(context);
  return output;
}

// The specification's randomised test: key, nonce, and the length-prefixed
// plaintext and additional data are read from one SHAKE128 stream, and the
// ciphertexts hashed with another.
TEST(Xaes, AccumulatedVector) {
  constexpr size_t kIterations = 10000;
  const std::string stream = Shake128("", kIterations * (kKeyBytes + 24 + 2 * 256));
  std::string_view rest = stream;
  const auto take = [&](size_t bytes) {
    const std::string_view taken = rest.substr(0, bytes);
    rest.remove_prefix(bytes);
    return taken;
  };
  std::string ciphertexts;
  for (size_t i = 0; i < kIterations; ++i) {
    const KeyRing ring = RingOf(take(kKeyBytes));
    const std::string_view nonce = take(24);
    const std::string_view plaintext = take(static_cast<unsigned char>(take(1)[0]));
    const std::string_view additional_data = take(static_cast<unsigned char>(take(1)[0]));
    std::string sealed(plaintext.size() + kTagBytes, '\0');
    ASSERT_TRUE(XaesSeal(ring.primary(), nonce, additional_data, plaintext, sealed.data()));
    std::string opened(plaintext.size(), '\0');
    ASSERT_TRUE(XaesOpen(ring.primary(), nonce, additional_data, sealed, opened.data()));
    ASSERT_EQ(opened, plaintext);
    ciphertexts += sealed;
  }
  EXPECT_EQ(HexEncode(Shake128(ciphertexts, 32)), "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939");
}

TEST(Xaes, AnotherNonceKeyOrAdditionalDataDoesNotOpen) {
  const KeyRing ring = RingOf(std::string(kKeyBytes, 1));
  const KeyRing other = RingOf(std::string(kKeyBytes, 2));
  std::string sealed(4 + kTagBytes, '\0');
  ASSERT_TRUE(XaesSeal(ring.primary(), kNonce, "aad", "fake", sealed.data()));
  const auto refused = [&](const KeyRing& keys, std::string_view nonce, std::string_view additional_data) {
    std::string out(4, 'p');
    const Status opened = XaesOpen(keys.primary(), nonce, additional_data, sealed, out.data());
    return !opened && opened.error().code == ErrorCode::kNotAuthentic && out == std::string(4, '\0');
  };
  EXPECT_TRUE(refused(other, kNonce, "aad"));
  EXPECT_TRUE(refused(ring, kNonce, "aae"));
  EXPECT_TRUE(refused(ring, kNonce, ""));
  for (size_t at = 0; at < kNonce.size(); ++at) {
    std::string nonce(kNonce);
    nonce[at] ^= 1;
    EXPECT_TRUE(refused(ring, nonce, "aad")) << at;
  }
  EXPECT_FALSE(refused(ring, kNonce, "aad"));
}

TEST(Xaes, InputOfAWrongSizeIsRefused) {
  const KeyRing ring = RingOf(std::string(kKeyBytes, 1));
  std::string out(64, '\0');
  const auto code = [](const Status& status) { return status ? ErrorCode::kInternal : status.error().code; };
  EXPECT_EQ(code(XaesSeal(ring.primary(), kNonce.substr(1), "", "x", out.data())), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(XaesSeal(SealingKey(), kNonce, "", "x", out.data())), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(XaesOpen(ring.primary(), kNonce.substr(1), "", out, out.data())), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(XaesOpen(ring.primary(), kNonce, "", "fifteen bytes..", out.data())), ErrorCode::kNotAuthentic);
  const std::string too_long(4 * 1024 * 1024 + 1, 'a');
  EXPECT_EQ(code(XaesSeal(ring.primary(), kNonce, too_long, "x", out.data())), ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace token_refresh
