#include "core/hex_cipher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "core/encoding.h"
#include "core/hex_decode.h"
#include "core/sealed_box.h"

namespace token_refresh {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string FromHex(std::string_view text) {
  std::string bytes(text.size() / 2, '\0');
  EXPECT_TRUE(HexDecodeInto(text, bytes.data()));
  return bytes;
}

// The application key "app" of a ring.
ApplicationKey Key(const std::string& hex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f") {
  auto ring = KeyRing::Parse("main " + Base64Encode(std::string(kKeyBytes, 'm')) + "\napp " + hex);
  EXPECT_TRUE(ring);
  const ApplicationKey* key = ring->FindApplicationKey("app");
  return ApplicationKey{key->name, key->id, key->key.Clone(), key->roles};
}

std::string Sealed(const ApplicationKey& key, std::string_view plaintext, size_t iv_bytes = 16) {
  auto stored = SealHexCipher(key, plaintext, iv_bytes);
  EXPECT_TRUE(stored);
  return stored ? *stored : std::string();
}

void ExpectOpens(const ApplicationKey& key, const std::string& stored, std::string_view plaintext) {
  const auto opened = OpenHexCipher(key, stored);
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_TRUE(opened->Equals(plaintext));
}

Error OpenFails(const ApplicationKey& key, const std::string& stored) {
  const auto opened = OpenHexCipher(key, stored);
  EXPECT_FALSE(opened) << "opened";
  return opened ? Error{} : opened.error();
}

// Test cases 13 to 15 of "The Galois/Counter Mode of Operation" (McGrew and Viega), all without additional data.
TEST(HexCipher, OpensThePublishedVectors) {
  const std::string zeros(64, '0');
  ExpectOpens(Key(zeros), "000000000000000000000000:530f8afbc74536b9a963b4f1c4cb738b:", "");
  ExpectOpens(Key(zeros), "000000000000000000000000:d0d1c8a799996bf0265b98b5d48ab919:cea7403d4d606b6e074ec5d3baf39d18",
              std::string(16, '\0'));
  ExpectOpens(Key("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"),
              "cafebabefacedbaddecaf888:b094dac5d93471bdec1a502270e3cc6c:"
              "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
              "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
              FromHex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
                      "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"));
}

// Made by crypto.createCipheriv("aes-256-gcm", key, iv) of Node 20 with an iv of 16 bytes.
TEST(HexCipher, OpensWhatNodeWrote) {
  const std::string stored =
      "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff:d33e55b2bf05902395e00fc8e9d1c830:de00774abce18da4cd9620e87941d1cf1c";
  ExpectOpens(Key(), stored, "fake-access-token");
  std::string upper = stored;
  std::transform(upper.begin(), upper.end(), upper.begin(), [](char c) { return c >= 'a' ? c - 'a' + 'A' : c; });
  ASSERT_NE(upper, stored);
  ExpectOpens(Key(), upper, "fake-access-token");
}

TEST(HexCipher, WhatIsSealedOpens) {
  const ApplicationKey key = Key();
  for (const size_t iv_bytes : {12u, 13u, 14u, 15u, 16u}) {
    for (const size_t size : {size_t{0}, size_t{1}, size_t{15}, size_t{16}, size_t{17}, size_t{200}, size_t{1} << 20}) {
      std::string plaintext(size, '\0');
      for (size_t i = 0; i < size; ++i) plaintext[i] = static_cast<char>(i * 7 + i / 256);
      const std::string stored = Sealed(key, plaintext, iv_bytes);
      ASSERT_EQ(stored.size(), 2 * iv_bytes + 1 + 32 + 1 + 2 * size);
      ASSERT_EQ(stored[2 * iv_bytes], ':');
      ASSERT_EQ(stored[2 * iv_bytes + 33], ':');
      ASSERT_EQ(stored.find_first_not_of("0123456789abcdef:"), std::string::npos);
      ASSERT_EQ(HexCipherIvBytes(stored), iv_bytes);
      ExpectOpens(key, stored, plaintext);
    }
  }
}

TEST(HexCipher, NoIvComesTwice) {
  const ApplicationKey key = Key();
  constexpr size_t kSeals = 1000;
  std::set<std::string> ivs;
  for (size_t i = 0; i < kSeals; ++i) ivs.insert(Sealed(key, "", 12).substr(0, 24));
  EXPECT_EQ(ivs.size(), kSeals);
}

TEST(HexCipher, AChangeOfAnyDigitIsNoticed) {
  const ApplicationKey key = Key();
  for (const size_t iv_bytes : {12u, 16u}) {
    const std::string stored = Sealed(key, "fake-access-token", iv_bytes);
    for (size_t at = 0; at < stored.size(); ++at) {
      std::string changed = stored;
      changed[at] = stored[at] == '0' ? '1' : '0';
      ASSERT_EQ(OpenFails(key, changed).code, ErrorCode::kNotAuthentic) << "character " << at;
    }
    for (size_t size = 0; size < stored.size(); ++size) {
      ASSERT_EQ(OpenFails(key, stored.substr(0, size)).code, ErrorCode::kNotAuthentic) << "cut to " << size;
    }
    ASSERT_EQ(OpenFails(key, stored + "00").code, ErrorCode::kNotAuthentic);
  }
}

TEST(HexCipher, AnIvDoesNotGoWithAnotherTagOrCiphertext) {
  const ApplicationKey key = Key();
  const std::string one = Sealed(key, "fake-one");
  const std::string two = Sealed(key, "fake-two");
  EXPECT_EQ(OpenFails(key, one.substr(0, 33) + two.substr(33)).code, ErrorCode::kNotAuthentic);
  EXPECT_EQ(OpenFails(key, one.substr(0, 66) + two.substr(66)).code, ErrorCode::kNotAuthentic);
}

TEST(HexCipher, WhatIsNotOfTheFormIsRefusedAndSaysWhy) {
  const std::string iv(24, 'a'), tag(32, 'b');
  struct Case {
    std::string stored;
    const char* why;
  };
  const std::vector<Case> cases = {
      {"", "three parts"},
      {"fake-access-token", "three parts"},
      {":", "three parts"},
      {iv + ":" + tag, "three parts"},
      {iv + ":" + tag + ":00:", "three parts"},
      {iv + ":" + tag + ":00:00", "three parts"},
      {"::", "the iv does not have"},
      {":" + tag + ":00", "the iv does not have"},
      {iv.substr(2) + ":" + tag + ":00", "the iv does not have"},
      {iv + "a:" + tag + ":00", "the iv does not have"},
      {std::string(34, 'a') + ":" + tag + ":00", "the iv does not have"},
      {iv.substr(1) + "g:" + tag + ":00", "the iv is not hex"},
      {iv.substr(1) + " :" + tag + ":00", "the iv is not hex"},
      {iv + "::00", "the tag does not have"},
      {iv + ":" + tag.substr(2) + ":00", "the tag does not have"},
      {iv + ":" + tag + "bb:00", "the tag does not have"},
      {iv + ":" + tag.substr(1) + "-:00", "the tag is not hex"},
      {iv + ":" + tag + ":000", "the ciphertext is not hex"},
      {iv + ":" + tag + ":0x", "the ciphertext is not hex"},
      {iv + ":" + tag + ":00\n", "the ciphertext is not hex"},
      {iv + ":" + tag + ":00" + std::string(2, '\0'), "the ciphertext is not hex"},
      {iv + ":" + tag + ":\xc3\xa4", "the ciphertext is not hex"},
      {" " + iv + ":" + tag + ":00", "the iv does not have"},
      {iv + ":" + tag + ":" + std::string(2 * kMaxSecretBytes + 2, '0'), "too long"},
      {iv + ":" + tag + ":00", "does not open"},
      {iv + ":" + tag + ":", "does not open"},
  };
  const ApplicationKey key = Key();
  for (const Case& c : cases) {
    const Error error = OpenFails(key, c.stored);
    EXPECT_EQ(error.code, ErrorCode::kNotAuthentic) << c.why;
    EXPECT_THAT(error.message, HasSubstr(c.why)) << c.stored.substr(0, 80);
    EXPECT_FALSE(error.hint.empty());
  }
}

TEST(HexCipher, AnotherKeyDoesNotOpenIt) {
  const Error error = OpenFails(Key(std::string(64, '7')), Sealed(Key(), "fake-access-token"));
  EXPECT_EQ(error.code, ErrorCode::kNotAuthentic);
  EXPECT_THAT(error.message, HasSubstr("\"app\""));
}

TEST(HexCipher, ErrorsNeverQuoteTheStoredText) {
  const ApplicationKey key = Key();
  const std::string stored = Sealed(key, "fake-access-token");
  for (const std::string& text : {stored.substr(0, 80), stored + "0", stored.substr(1), "x" + stored.substr(1),
                                  stored.substr(0, 65), std::string("fake-access-token"), stored + "00"}) {
    const Error error = OpenFails(key, text);
    for (const std::string& said : {error.message, error.hint}) {
      EXPECT_THAT(said, Not(HasSubstr("fake")));
      for (const size_t at : {2u, 20u, 40u, 70u}) EXPECT_THAT(said, Not(HasSubstr(stored.substr(at, 8))));
    }
  }
}

TEST(HexCipher, IvsAreOf12To16Bytes) {
  const ApplicationKey key = Key();
  for (const size_t iv_bytes : {size_t{0}, size_t{11}, size_t{17}, size_t{24}, SIZE_MAX}) {
    const auto stored = SealHexCipher(key, "fake", iv_bytes);
    ASSERT_FALSE(stored) << iv_bytes;
    EXPECT_EQ(stored.error().code, ErrorCode::kInvalidArgument);
  }
}

TEST(HexCipher, LargerThanTheLimitIsRefused) {
  const ApplicationKey key = Key();
  std::string plaintext(kMaxSecretBytes, 'x');
  ExpectOpens(key, Sealed(key, plaintext), plaintext);
  plaintext += 'x';
  const auto stored = SealHexCipher(key, plaintext, 16);
  ASSERT_FALSE(stored);
  EXPECT_EQ(stored.error().code, ErrorCode::kInvalidArgument);
}

TEST(HexCipher, AKeyThatIsNoneIsRefused) {
  const ApplicationKey none{};
  EXPECT_EQ(OpenFails(none, Sealed(Key(), "fake")).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(SealHexCipher(none, "fake", 16).error().code, ErrorCode::kInvalidArgument);
}

TEST(HexCipher, ANewTextGetsAnIvLikeTheStoredOne) {
  const std::string rest = ":" + std::string(32, 'b') + ":00";
  EXPECT_EQ(HexCipherIvBytes(std::string(24, 'a') + rest), 12u);
  EXPECT_EQ(HexCipherIvBytes(std::string(28, 'a') + rest), 14u);
  EXPECT_EQ(HexCipherIvBytes(std::string(32, 'a') + rest), 16u);
  for (const std::string& stored :
       {std::string(), std::string(":"), std::string("::"), std::string("fake"), std::string(24, 'a'),
        std::string(24, 'a') + ":", std::string(25, 'a') + rest, std::string(22, 'a') + rest,
        std::string(34, 'a') + rest, std::string(24, 'a') + rest + ":"}) {
    EXPECT_EQ(HexCipherIvBytes(stored), 16u) << stored;
  }
}

TEST(HexDecode, IsTheReverseOfHexEncode) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  EXPECT_EQ(FromHex(HexEncode(all)), all);
  std::string out(2, '\0');
  EXPECT_TRUE(HexDecodeInto("aBFf", out.data()));
  EXPECT_EQ(out, "\xab\xff");
  for (const std::string_view wrong : {"a", "abc", "0g", "g0", "0 ", "0x", "\xff\xff"}) {
    EXPECT_FALSE(HexDecodeInto(wrong, out.data())) << wrong;
  }
  EXPECT_TRUE(HexDecodeInto("", nullptr));
}

}  // namespace
}  // namespace token_refresh
