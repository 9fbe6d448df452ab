#include "core/key_ring.h"

#include <gtest/gtest.h>

#include <string>

#include "core/encoding.h"

namespace token_refresh {
namespace {

std::string KeyText(char fill) { return Base64Encode(std::string(kKeyBytes, fill)); }

void ExpectRefused(const std::string& text, const std::string& message_part) {
  const auto ring = KeyRing::Parse(text);
  ASSERT_FALSE(ring) << "accepted, expected: " << message_part;
  EXPECT_EQ(ring.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(ring.error().message.find(message_part), std::string::npos) << ring.error().message;
}

TEST(KeyRing, FirstKeyIsPrimaryAndAllAreFound) {
  const auto ring = KeyRing::Parse("new " + KeyText(2) + "\nold " + KeyText(1) + "\n");
  ASSERT_TRUE(ring);
  ASSERT_EQ(ring->keys().size(), 2u);
  EXPECT_EQ(ring->primary().name, "new");
  EXPECT_EQ(ring->primary().key.view(), std::string(kKeyBytes, 2));
  EXPECT_EQ(ring->FindById(ring->keys()[1].id), &ring->keys()[1]);
  EXPECT_EQ(ring->FindById(KeyId{}), nullptr);
}

// K1 as the specification's two vectors give it; in the second the top bit of L is set.
TEST(KeyRing, SubkeysAreThoseOfTheSpecification) {
  const auto ring = KeyRing::Parse("one " + KeyText(1) + "\nthree " + KeyText(3));
  ASSERT_TRUE(ring);
  EXPECT_EQ(HexEncode(ring->keys()[0].subkey.view()), "e531954aca063d5b8d9c47a47d4cc6f0");
  EXPECT_EQ(HexEncode(ring->keys()[1].subkey.view()), "23810ec50edb99f374409466ed1f4b7b");
}

// Ids are stored with every secret, so they must never change.
TEST(KeyRing, IdIsTheStartOfAnHmacOfTheKey) {
  const auto ring = KeyRing::Parse("one " + KeyText(1));
  ASSERT_TRUE(ring);
  const auto mac = HmacSha256(std::string(kKeyBytes, 1), "token_refresh key id");
  ASSERT_TRUE(mac);
  EXPECT_EQ(KeyIdHex(ring->primary().id), HexEncode(BytesOf(*mac)).substr(0, 16));
  EXPECT_EQ(KeyIdHex(ring->primary().id), "126e668b9ca3e48d");
}

TEST(KeyRing, ToleratesHowEditorsWriteLines) {
  const std::string key = KeyText(1);
  for (const std::string& text :
       {"a " + key, "a " + key + "\n", "a " + key + "\r\n", "a\t" + key + "\t\n", "  a   \t " + key + "  \r\n\r\n",
        "\n\n# a comment\n  # another # one\n#\na " + key + "\n\n   \n#end"}) {
    const auto ring = KeyRing::Parse(text);
    ASSERT_TRUE(ring) << ring.error().message;
    ASSERT_EQ(ring->keys().size(), 1u);
    EXPECT_EQ(ring->primary().name, "a");
    EXPECT_EQ(ring->primary().key.view(), std::string(kKeyBytes, 1));
  }
}

TEST(KeyRing, NamesHaveAnAlphabetAndALimit) {
  const std::string rest = " " + KeyText(1);
  EXPECT_TRUE(KeyRing::Parse("A-z_0.9" + rest));
  EXPECT_TRUE(KeyRing::Parse(std::string(63, 'n') + rest));
  ExpectRefused(std::string(64, 'n') + rest, "line 1 of the key ring: the name");
  for (const char* name : {"a/b", "a:b", "a=", "\xc3\xa9", "a\"", "\xef\xbb\xbfmain"})
    ExpectRefused(name + rest, "the name");
  ExpectRefused(std::string("a\0b", 3) + rest, "the name");
}

TEST(KeyRing, KeysAreExactly32BytesOfStrictBase64) {
  for (const size_t size : {0u, 1u, 16u, 31u, 33u, 64u}) {
    const std::string text = size == 0 ? "====" : Base64Encode(std::string(size, 'k'));
    ExpectRefused("a " + text,
                  size == 0 ? "not valid base64" : "expected 32 bytes in base64, got " + std::to_string(size));
  }
  std::string key = KeyText(1);
  ExpectRefused("a " + key.substr(0, 43), "not valid base64");
  key[5] = '-';
  ExpectRefused("a " + key, "not valid base64");
  key = KeyText(1);
  key[42] = key[42] == 'F' ? 'G' : 'F';  // a bit after the end
  ExpectRefused("a " + key, "not valid base64");
}

// As `openssl rand -hex 32` and Node applications write it.
TEST(KeyRing, AnApplicationKeyIs64HexDigits) {
  const std::string lower = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff";
  const std::string upper = "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1EFF";
  for (const std::string& text : {lower, upper}) {
    const auto ring = KeyRing::Parse("main " + KeyText(1) + "\napp " + text + "\r\n");
    ASSERT_TRUE(ring) << ring.error().message;
    const ApplicationKey* key = ring->FindApplicationKey("app");
    ASSERT_NE(key, nullptr);
    EXPECT_EQ(HexEncode(key->key.view()), lower);
    EXPECT_TRUE(key->roles.empty());
    // It is not among the keys that seal and open what is ours, wherever its line stands.
    EXPECT_EQ(ring->keys().size(), 1u);
    EXPECT_EQ(ring->FindById(key->id), nullptr);
    EXPECT_EQ(ring->FindApplicationKey("main"), nullptr);
    const auto first = KeyRing::Parse("app " + text + "\nmain " + KeyText(1));
    ASSERT_TRUE(first);
    EXPECT_EQ(first->primary().name, "main");
    // Which form it was written in does not matter: the same bytes are the same key.
    ExpectRefused("app " + text + "\nb " + Base64Encode(key->key.view()),
                  "line 2 of the key ring: an earlier line has the same key");
    ExpectRefused("app " + KeyText(1) + "\napp " + text, "line 2 of the key ring: an earlier line has the same name");
  }
}

TEST(KeyRing, RolesMayFollowAnApplicationKey) {
  const auto ring = KeyRing::Parse("main " + KeyText(1) + "\napp " + std::string(64, 'a') + " web\tbatch \n");
  ASSERT_TRUE(ring) << ring.error().message;
  EXPECT_EQ(ring->FindApplicationKey("app")->roles, (std::vector<std::string>{"web", "batch"}));
}

TEST(KeyRing, ApplicationKeysAloneSealNothing) {
  const auto ring = KeyRing::Parse("app " + std::string(64, 'a'));
  ASSERT_FALSE(ring);
  EXPECT_EQ(ring.error().code, ErrorCode::kKeyMissing);
  EXPECT_NE(ring.error().message.find("none to seal with"), std::string::npos);
}

TEST(KeyRing, HexKeysHaveExactly64Digits) {
  for (const size_t digits : {1u, 32u, 44u, 62u, 63u, 65u, 128u}) {
    ExpectRefused("a " + std::string(digits, 'a'),
                  "expected 32 bytes in base64 or 64 hex digits, got " + std::to_string(digits) + " hex digits");
  }
  // One character that is no digit makes it base64, of 48 bytes.
  ExpectRefused("a " + std::string(63, 'a') + "g", "expected 32 bytes in base64, got 48");
  ExpectRefused("a 0x" + std::string(64, 'a'), "not valid base64");
  ExpectRefused("a " + std::string(63, 'a') + ":", "not valid base64");
}

TEST(KeyRing, ALineIsTwoWords) {
  ExpectRefused("a", "expected a name and a key, got 1 word");
  ExpectRefused("# fine\n\n" + KeyText(1), "line 3 of the key ring: expected a name and a key, got 1 word");
  ExpectRefused("a " + KeyText(1) + " # comment", "got 4 words");
  ExpectRefused("a " + KeyText(1) + "\rb " + KeyText(2), "got 4 words");
}

TEST(KeyRing, RefusesDuplicates) {
  ExpectRefused("a " + KeyText(1) + "\n\na " + KeyText(2), "line 3 of the key ring: an earlier line has the same name");
  ExpectRefused("a " + KeyText(1) + "\nb " + KeyText(1), "line 2 of the key ring: an earlier line has the same key");
  EXPECT_TRUE(KeyRing::Parse("a " + KeyText(1) + "\nA " + KeyText(2)));
}

TEST(KeyRing, WithoutAnyKeyItSaysHowToMakeOne) {
  for (const char* text : {"", "\n", "  \r\n\t", "# only a comment"}) {
    const auto ring = KeyRing::Parse(text);
    ASSERT_FALSE(ring);
    EXPECT_EQ(ring.error().code, ErrorCode::kKeyMissing);
    EXPECT_NE(ring.error().hint.find("openssl rand -base64 32"), std::string::npos);
  }
}

TEST(KeyRing, TheTextIsBounded) {
  const std::string line = "a " + KeyText(1) + "\n";
  EXPECT_TRUE(KeyRing::Parse(line + std::string(64 * 1024 - line.size(), '\n')));
  ExpectRefused(line + std::string(64 * 1024 + 1 - line.size(), '\n'), "longer than 64 KiB");
}

// Also when name and key are swapped, or the key is damaged.
TEST(KeyRing, ErrorsNeverQuoteTheLine) {
  const std::string key = Base64Encode("not-a-real-key-not-a-real-key-32");
  const std::string fragment = key.substr(0, 8);
  for (const std::string& text :
       {key, key + " a", "a " + key + key, "a " + key.substr(1), "a b " + key, "a " + key + "\nb " + key,
        "a " + key + "\na " + KeyText(1), "a " + key.substr(0, 40), "a " + std::string(key.rbegin(), key.rend())}) {
    const auto ring = KeyRing::Parse(text);
    ASSERT_FALSE(ring);
    for (const std::string& said : {ring.error().message, ring.error().hint}) {
      EXPECT_EQ(said.find(fragment), std::string::npos);
      EXPECT_EQ(said.find(key.substr(30, 8)), std::string::npos);
      EXPECT_EQ(said.find("not-a-real"), std::string::npos);
    }
  }
}

TEST(KeyRing, ErrorsNeverQuoteAHexKey) {
  const std::string key = HexEncode("not-a-real-key-not-a-real-key-32");
  for (const std::string& text :
       {key + " a", "a b " + key, "a " + key + "0", "a " + key.substr(1), "a " + key.substr(2) + "xy", "a " + key + "\nb " + key}) {
    const auto ring = KeyRing::Parse(text);
    ASSERT_FALSE(ring);
    for (const std::string& said : {ring.error().message, ring.error().hint}) {
      EXPECT_EQ(said.find(key.substr(8, 8)), std::string::npos);
    }
  }
}

TEST(KeyRing, CanBeMoved) {
  auto parsed = KeyRing::Parse("a " + KeyText(1));
  ASSERT_TRUE(parsed);
  const KeyRing ring = std::move(parsed).value();
  EXPECT_EQ(ring.primary().key.size(), kKeyBytes);
  EXPECT_EQ(ring.primary().subkey.size(), 16u);
}

}  // namespace
}  // namespace token_refresh
