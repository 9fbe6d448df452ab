#include "core/strict_json.h"

#include <gtest/gtest.h>

#include <string>

namespace token_refresh {
namespace {

bool IsRead(std::string_view json) { return ParseStrictObject(json).has_value(); }

std::string Nested(size_t depth) {
  std::string json = "{\"a\":";
  for (size_t i = 1; i < depth; ++i) json += '[';
  json += "1";
  for (size_t i = 1; i < depth; ++i) json += ']';
  return json + "}";
}

TEST(StrictJson, ReadsWhatJsonSays) {
  const auto read = ParseStrictObject(
      " {\"text\":\"\\u00e9\\n\",\"whole\":7,\"negative\":-7,\"fraction\":0.5,\"zero\":0.0e5,\"yes\":true,\"no\":null,"
      "\"list\":[1,[2],{\"a\":[]},\"x\"],\"object\":{\"text\":{}}}\r\n\t");
  ASSERT_TRUE(read);
  EXPECT_EQ(*read, SecretJson::parse("{\"text\":\"\\u00e9\\n\",\"whole\":7,\"negative\":-7,\"fraction\":0.5,"
                                     "\"zero\":0.0,\"yes\":true,\"no\":null,\"list\":[1,[2],{\"a\":[]},\"x\"],"
                                     "\"object\":{\"text\":{}}}"));
  EXPECT_TRUE(ParseStrictObject("{}")->empty());
}

TEST(StrictJson, NothingButAnObject) {
  for (const char* json : {"",
                           " ",
                           "null",
                           "1",
                           "\"{}\"",
                           "[]",
                           "[{}]",
                           "{",
                           "{}}",
                           "{} {}",
                           "{}x",
                           "{\"a\":1,}",
                           "{a:1}",
                           "{'a':1}",
                           "{\"a\":}",
                           "{\"a\"}",
                           "{,}",
                           "{\"a\":01}",
                           "{\"a\":+1}",
                           "{\"a\":NaN}",
                           "{\"a\":Infinity}",
                           "{\"a\":tru}",
                           "// x\n{}",
                           "\xEF\xBB\xBF{}"}) {
    EXPECT_FALSE(IsRead(json)) << json;
  }
  EXPECT_FALSE(IsRead(std::string_view("{}\0", 3)));
  EXPECT_FALSE(IsRead(std::string_view("{}\0{}", 5)));
  EXPECT_FALSE(IsRead(std::string_view("\0{}", 3)));
  EXPECT_FALSE(IsRead({}));
}

TEST(StrictJson, NoNameTwice) {
  EXPECT_FALSE(IsRead("{\"a\":1,\"a\":1}"));
  EXPECT_FALSE(IsRead("{\"a\":1,\"b\":2,\"\\u0061\":3}"));
  EXPECT_FALSE(IsRead("{\"a\":{\"b\":1,\"c\":2,\"b\":3}}"));
  EXPECT_FALSE(IsRead("{\"a\":[{\"b\":1,\"b\":1}]}"));
  EXPECT_FALSE(IsRead("{\"\":1,\"\":2}"));
  EXPECT_TRUE(IsRead("{\"a\":{\"a\":1},\"b\":{\"a\":1},\"A\":[{\"a\":1},{\"a\":2}]}"));
}

TEST(StrictJson, Depth) {
  EXPECT_TRUE(IsRead(Nested(kMaxJsonDepth)));
  EXPECT_FALSE(IsRead(Nested(kMaxJsonDepth + 1)));
  EXPECT_FALSE(IsRead(Nested(100000)));
  EXPECT_TRUE(IsRead("{\"a\":[[[]]],\"b\":[[[]]],\"c\":\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"}"));
}

TEST(StrictJson, TextThatTheServerCannotHold) {
  EXPECT_FALSE(IsRead("{\"a\":\"x\\u0000\"}"));
  EXPECT_FALSE(IsRead("{\"x\\u0000\":1}"));
  EXPECT_FALSE(IsRead(std::string_view("{\"a\":\"\0\"}", 9)));
  for (const char* text : {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\\ud800", "\\udc00",
                           "\\ud800x", "\x01", "\n", "\\x", "\\u12"}) {
    EXPECT_FALSE(IsRead("{\"a\":\"" + std::string(text) + "\"}")) << text;
    EXPECT_FALSE(IsRead("{\"" + std::string(text) + "\":1}")) << text;
  }
  EXPECT_TRUE(IsRead("{\"\\ud83d\\ude00\":\"\xF0\x9F\x98\x80\"}"));
}

TEST(StrictJson, NumbersThatTheServerCannotHold) {
  for (const char* number : {"1e309", "-1e309", "1e999999999999", "1e-400", "-0.1e-400", "1e-99999", "0e-20000",
                             "0.0E20000", "0e401", "-0e+401", "0e-401", "0e99999999999999999999"}) {
    EXPECT_FALSE(IsRead("{\"a\":" + std::string(number) + "}")) << number;
  }
  EXPECT_FALSE(IsRead("{\"a\":0." + std::string(20000, '1') + "}"));
  EXPECT_FALSE(IsRead("{\"a\":" + std::string(20000, '1') + "}"));
  for (const char* number :
       {"1e308", "0e-99", "0e400", "0e-0000000400", "0E+5", "-0", "0.0", "18446744073709551616", "1e-300"}) {
    EXPECT_TRUE(IsRead("{\"a\":" + std::string(number) + "}")) << number;
  }
}

}  // namespace
}  // namespace token_refresh
