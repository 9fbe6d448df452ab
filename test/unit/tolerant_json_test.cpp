#include "core/tolerant_json.h"

#include <gtest/gtest.h>

#include <string>

namespace token_refresh {
namespace {

// The value as strict JSON; " ..." behind what is not whole.
std::string Read(std::string_view json) {
  const TolerantJson read = ReadTolerantJson(json);
  const SecretString text = read.value.dump(-1, ' ', true, SecretJson::error_handler_t::replace);
  return std::string(text) + (read.whole ? "" : " ...");
}

TEST(TolerantJsonTest, LeavesJsonAsItIs) {
  for (const char* json : {R"({})", R"({"a":[1,-2,3.5,true,false,null,{"b":[]}],"c":{"d":{}},"e":""})",
                           R"({"a":"\ud83d\ude00 \"\\ \u0000"})"}) {
    EXPECT_EQ(Read(json), json);
  }
}

TEST(TolerantJsonTest, ReadsObjectsOnly) {
  for (const char* json : {"", " ", "7", "\"a\"", "null", "[]", "[{\"a\":1}]", "]", "NaN", "a{}"}) {
    EXPECT_EQ(Read(json), "{} ...") << json;
  }
}

TEST(TolerantJsonTest, WordsThatJsonDoesNotHaveAreNull) {
  for (const char* word : {"NaN", "nan", "Infinity", "-Infinity", "1e999", "-1e999", "undefined", "None", "True", "+1",
                           "01", ".5", "1.", "0x10", "'text'", "1_000"}) {
    EXPECT_EQ(Read("{\"a\":" + std::string(word) + ",\"b\":[" + word + ", 2 ],\"c\":\"" + word + "\"}"),
              "{\"a\":null,\"b\":[null,2],\"c\":\"" + std::string(word) + "\"}");
  }
}

TEST(TolerantJsonTest, HugeIntegersStayNumbers) {
  EXPECT_EQ(Read(R"({"a":18446744073709551615,"b":99999999999999999999})"),
            R"({"a":18446744073709551615,"b":1e+20})");
}

TEST(TolerantJsonTest, WhatIsForbiddenInsideATextIsReplaced) {
  EXPECT_EQ(Read(R"({"a":"x\ud800y","b":1})"), R"({"a":"x\ufffdy","b":1})");
  EXPECT_EQ(Read(R"({"a":"\udc00\ud800\ud800\udc00"})"), R"({"a":"\ufffd\ufffd\ud800\udc00"})");
  EXPECT_EQ(Read(R"({"a":"\ud800\n\uD83D\uDE00\\ud800"})"), R"({"a":"\ufffd\n\ud83d\ude00\\ud800"})");
  EXPECT_EQ(Read("{\"a\":\"x\xFFy\xC3\",\"b\":1}"), R"({"a":"x\ufffdy\ufffd","b":1})");
  EXPECT_EQ(Read("{\"a\":\"\xED\xA0\x80\"}"), R"({"a":"\ufffd\ufffd\ufffd"})");
  EXPECT_EQ(Read("{\"a\":\"x\ny\tz\",\n\t\"b\":1}"), R"({"a":"x\ufffdy\ufffdz","b":1})");
  EXPECT_EQ(Read(std::string("{\"a\":\"x\0y\"}", 11)), R"({"a":"x\ufffdy"})");
  EXPECT_EQ(Read(R"({"a":"it\'s","b":"\x41\u12"})"), R"({"a":"it\ufffd's","b":"\ufffdx41\ufffdu12"})");
  EXPECT_EQ(Read("{\"a\":\"\xC3\xBC\",\"b\":NaN}"), R"({"a":"\u00fc","b":null})");
  EXPECT_EQ(Read("{\"a\xFF\":1}"), R"({"a\ufffd":1})");
}

TEST(TolerantJsonTest, CommasBeforeAClosingBracketAreIgnored) {
  EXPECT_EQ(Read("{\"a\":[1,2, ],\"b\":{\"c\":\",}\", \n},}"), R"({"a":[1,2],"b":{"c":",}"}})");
  EXPECT_EQ(Read(R"({"a":1,,"b":2})"), R"({} ...)");
}

TEST(TolerantJsonTest, WhatFollowsTheObjectIsIgnored) {
  for (const std::string rest : {"\n", ";", "}", "<br>\n<b>Warning</b>", "{\"b\":2}", "\"", "\\", "\xFF", "NaN"}) {
    EXPECT_EQ(Read("{\"a\":1}" + rest), "{\"a\":1}") << rest;
  }
  EXPECT_EQ(Read(std::string("{\"a\":1}\0\0", 9)), "{\"a\":1}");
}

TEST(TolerantJsonTest, OfMembersWithOneNameTheLastThatSaysSomethingCounts) {
  EXPECT_EQ(Read(R"({"a":"x","a":"y"})"), R"({"a":"y"})");
  EXPECT_EQ(Read(R"({"a":"x","a":null})"), R"({"a":"x"})");
  EXPECT_EQ(Read(R"({"a":"x","a":""})"), R"({"a":"x"})");
  EXPECT_EQ(Read(R"({"a":null,"a":"x"})"), R"({"a":"x"})");
  EXPECT_EQ(Read(R"({"a":null,"a":""})"), R"({"a":""})");
  EXPECT_EQ(Read(R"({"a":{"b":1},"a":{"c":{"d":1,"d":null}}})"), R"({"a":{"c":{"d":null}}})");
  EXPECT_EQ(Read(R"({"a":[1],"a":0})"), R"({"a":0})");
}

TEST(TolerantJsonTest, OfADocumentThatBreaksOffTheCompleteMembersCount) {
  const std::string whole = R"({"a":"x","b":[1,{"c":2}],"d":"y"})";
  for (size_t length = 0; length < whole.size(); ++length) {
    const std::string expected = length < 8    ? "{} ..."
                                 : length < 24 ? R"({"a":"x"} ...)"
                                 : length < 32 ? R"({"a":"x","b":[1,{"c":2}]} ...)"
                                               : R"({"a":"x","b":[1,{"c":2}],"d":"y"} ...)";
    EXPECT_EQ(Read(whole.substr(0, length)), expected) << whole.substr(0, length);
  }
}

TEST(TolerantJsonTest, ANumberThatADocumentBreaksOffInIsNotComplete) {
  EXPECT_EQ(Read(R"({"a":"x","n":36)"), R"({"a":"x"} ...)");
  EXPECT_EQ(Read(R"({"a":"x","n":3600,"b":-1.5)"), R"({"a":"x","n":3600} ...)");
  EXPECT_EQ(Read(R"({"n":36)"), "{} ...");
  EXPECT_EQ(Read(R"({"a":"x","n":36 )"), R"({"a":"x","n":36} ...)");
  EXPECT_EQ(Read(R"({"a":"x","n":true)"), R"({"a":"x","n":true} ...)");
}

// A text may have ended at a quotation mark that belongs to it.
TEST(TolerantJsonTest, OfADocumentThatMakesNoSenseTheLastMemberIsInDoubt) {
  EXPECT_EQ(Read(R"({"a":"x","b":"Joe "X" Doe","c":"z"})"), R"({"a":"x"} ...)");
  EXPECT_EQ(Read(R"({"a":"x","b":"y" "c":"z"})"), R"({"a":"x"} ...)");
  EXPECT_EQ(Read(R"({"a":"x","b":["y":1],"c":"z"})"), R"({"a":"x"} ...)");
  EXPECT_EQ(Read(R"({"a":"x","b":"y"z"})"), R"({"a":"x"} ...)");
  EXPECT_EQ(Read(R"({"a":"x"]})"), R"({} ...)");
  EXPECT_EQ(Read(R"({"a":"x"])"), R"({} ...)");
}

TEST(TolerantJsonTest, IsLinear) {
  // Would take minutes if every flaw cost another pass.
  std::string json = "{\"a\":[";
  while (json.size() < 1000 * 1000) json += "NaN,";
  json += "0]}";
  EXPECT_TRUE(ReadTolerantJson(json).whole);
}

}  // namespace
}  // namespace token_refresh
