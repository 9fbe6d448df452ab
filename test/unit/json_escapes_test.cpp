#include "core/json_escapes.h"

#include <gtest/gtest.h>

#include <string>

#include "core/strict_json.h"

namespace token_refresh {
namespace {

std::string Resolved(std::string_view json) {
  const SecretString text = ResolveUnicodeEscapes(json);
  return {text.data(), text.size()};
}

TEST(JsonEscapes, ThoseBeyondAsciiBecomeUtf8) {
  EXPECT_EQ(Resolved(R"({"\u00e4":"\u00FF\u0080\u07ff\u0800\u20ac\uffff"})"),
            "{\"\xC3\xA4\":\"\xC3\xBF\xC2\x80\xDF\xBF\xE0\xA0\x80\xE2\x82\xAC\xEF\xBF\xBF\"}");
  EXPECT_EQ(Resolved(R"("\ud83d\ude00\uD800\uDC00\udbff\udfff.")"),
            "\"\xF0\x9F\x98\x80\xF0\x90\x80\x80\xF4\x8F\xBF\xBF.\"");
}

TEST(JsonEscapes, NothingElseChanges) {
  for (const char* json : {"", "{}", R"({"n": 12345678901234567890.12, "m":1.10,"e":1E5, "z":-0.0})",
                           R"("\u0041\u007f\u0022\u005c\u000a")", R"("\\u00e4")", R"("\\\\u00e4\"\n\/\b")",
                           "\"\xC3\xA4\xF0\x9F\x98\x80\"", "\"\\\\"}) {
    EXPECT_EQ(Resolved(json), json);
  }
  EXPECT_EQ(Resolved(R"("\\\u00e4\u005cu00e4")"), "\"\\\\\xC3\xA4\\u005cu00e4\"");
}

TEST(JsonEscapes, MeansTheSame) {
  const char* json = R"({"\u00e4\u0041":["\ud83d\ude00\"\\",1.5,{"a\u0022":"\u0009\u20ac"}]})";
  const std::string resolved = Resolved(json);
  EXPECT_EQ(*ParseStrictObject(resolved), *ParseStrictObject(json));
}

// Not JSON: nobody asks for it, and it must not be read beyond its end.
TEST(JsonEscapes, WhatIsCutOff) {
  for (const std::string json : {"\\", "\\u", "\\u00e", "\\uXXXX", "\\u12", "a\\"}) EXPECT_EQ(Resolved(json), json);
  EXPECT_EQ(Resolved("\\ud83d").size(), 3u);
  EXPECT_EQ(Resolved("\\ud83d\\u0041"), "\xED\xA0\xBD\\u0041");
}

}  // namespace
}  // namespace token_refresh
