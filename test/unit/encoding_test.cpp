#include "core/encoding.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace token_refresh {
namespace {

struct Pair {
  std::string bytes;
  std::string text;
};

// RFC 4648 section 10.
const std::vector<Pair>& Rfc4648() {
  static const std::vector<Pair> pairs = {{"", ""},
                                          {"f", "Zg=="},
                                          {"fo", "Zm8="},
                                          {"foo", "Zm9v"},
                                          {"foob", "Zm9vYg=="},
                                          {"fooba", "Zm9vYmE="},
                                          {"foobar", "Zm9vYmFy"}};
  return pairs;
}

std::string EveryByte() {
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes.push_back(static_cast<char>(i));
  return bytes;
}

TEST(Base64, PublishedVectors) {
  for (const Pair& pair : Rfc4648()) {
    EXPECT_EQ(Base64Encode(pair.bytes), pair.text);
    EXPECT_EQ(Base64EncodeSecret(pair.bytes).view(), pair.text);
    const auto decoded = Base64Decode(pair.text);
    ASSERT_TRUE(decoded) << pair.text;
    EXPECT_EQ(decoded->view(), pair.bytes);
  }
}

TEST(Base64, EveryLengthComesBack) {
  const std::string bytes = EveryByte();
  for (size_t size = 0; size <= bytes.size(); ++size) {
    const std::string_view part = std::string_view(bytes).substr(bytes.size() - size);
    const auto decoded = Base64Decode(Base64Encode(part));
    ASSERT_TRUE(decoded) << size;
    ASSERT_EQ(decoded->view(), part);
    const auto url_decoded = Base64UrlDecode(Base64UrlEncode(part));
    ASSERT_TRUE(url_decoded) << size;
    ASSERT_EQ(url_decoded->view(), part);
  }
}

TEST(Base64, LongInputGoesThroughInPieces) {
  std::string bytes(7 * 1024 * 1024 + 1, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 31 + i / 251);
  const std::string text = Base64Encode(bytes);
  EXPECT_EQ(text.size(), (bytes.size() + 2) / 3 * 4);
  const auto decoded = Base64Decode(text);
  ASSERT_TRUE(decoded);
  EXPECT_TRUE(decoded->view() == bytes);
}

TEST(Base64, RefusesWhatIsNotStrict) {
  for (const char* text : {"Z",        "Zg",   "Zg=",      "Zg===",    "Zm8",   "=",     "==",      "===",
                           "====",     "Z===", "Zg==Zg==", "Zg==\n",   " Zg==", "Zm 9v", "Zm9v\n",  "\nZm9",
                           "Zm9v    ", "Zm9-", "Zm9_",     "Zm9v----", "Z=g=",  "=Zg=",  "Zm9\x80", "Zm9\xff"}) {
    EXPECT_FALSE(Base64Decode(text)) << "accepted: " << text;
  }
  EXPECT_FALSE(Base64Decode(std::string_view("Zm9\0", 4)));
}

TEST(Base64, RefusesBitsAfterTheEnd) {
  for (const char* text : {"Zh==", "Zo==", "Zv==", "Zm9=", "Zm+="}) EXPECT_FALSE(Base64Decode(text)) << text;
  for (const char* text : {"Zh", "Zm9", "Zv"}) EXPECT_FALSE(Base64UrlDecode(text)) << text;
}

TEST(Base64Url, UsesItsOwnAlphabetWithoutPadding) {
  const std::string bytes = "\xfb\xff\xbf";
  EXPECT_EQ(Base64Encode(bytes), "+/+/");
  EXPECT_EQ(Base64UrlEncode(bytes), "-_-_");
  EXPECT_EQ(Base64UrlEncode("f"), "Zg");
  // RFC 7515 appendix C.
  const std::string octets = "\x03\xec\xff\xe0\xc1";
  EXPECT_EQ(Base64UrlEncode(octets), "A-z_4ME");
  ASSERT_TRUE(Base64UrlDecode("A-z_4ME"));
  EXPECT_EQ(Base64UrlDecode("A-z_4ME")->view(), octets);
  EXPECT_TRUE(Base64UrlDecode("")->empty());
}

TEST(Base64Url, RefusesTheOtherAlphabetPaddingAndImpossibleLengths) {
  for (const char* text : {"+/+/", "Zg==", "Zm8=", "Z", "Zm9vY", "Zm9v ", "Zm.v"}) {
    EXPECT_FALSE(Base64UrlDecode(text)) << "accepted: " << text;
  }
}

TEST(Hex, IsLowerCase) {
  EXPECT_EQ(HexEncode(""), "");
  EXPECT_EQ(HexEncode(std::string_view("\0\x0f\xf0\xff\x9a", 5)), "000ff0ff9a");
  EXPECT_EQ(HexEncode(EveryByte()).size(), 512u);
}

std::string HexOf(const Result<Sha256Digest>& digest) { return digest ? HexEncode(BytesOf(*digest)) : "no digest"; }

// FIPS 180-4 examples.
TEST(Sha256, PublishedVectors) {
  for (int round = 0; round < 2; ++round) {  // the context is used again
    EXPECT_EQ(HexOf(Sha256("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    EXPECT_EQ(HexOf(Sha256("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(HexOf(Sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")),
              "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    EXPECT_EQ(HexOf(Sha256(std::string(1000000, 'a'))),
              "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  }
}

// RFC 4231 test cases 1, 2 and 6.
TEST(HmacSha256, PublishedVectors) {
  EXPECT_EQ(HexOf(HmacSha256(std::string(20, '\x0b'), "Hi There")),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  EXPECT_EQ(HexOf(HmacSha256("Jefe", "what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  EXPECT_EQ(HexOf(HmacSha256(std::string(131, '\xaa'), "Test Using Larger Than Block-Size Key - Hash Key First")),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
  EXPECT_EQ(HexOf(HmacSha256("", "")), "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
  EXPECT_EQ(HexOf(HmacSha256({}, {})), HexOf(HmacSha256("", "")));
}

}  // namespace
}  // namespace token_refresh
