#include "core/qualified_name.h"

#include <gtest/gtest.h>

#include <string>

namespace token_refresh {
namespace {

void ExpectName(const std::string& text, const std::string& schema, const std::string& name) {
  const auto parsed = ParseQualifiedName(text);
  ASSERT_TRUE(parsed.has_value()) << text;
  EXPECT_EQ(parsed->schema, schema);
  EXPECT_EQ(parsed->name, name);
}

TEST(QualifiedName, PlainIdentifiersAreFolded) {
  ExpectName("app.decrypt", "app", "decrypt");
  ExpectName("App.DecryptToken", "app", "decrypttoken");
  ExpectName("_a1$.f_2$", "_a1$", "f_2$");
  ExpectName("\xc3\xa4pp.f", "\xc3\xa4pp", "f");
}

TEST(QualifiedName, QuotedIdentifiersStayAsTheyAre) {
  ExpectName(R"("My App"."De""crypt")", "My App", "De\"crypt");
  ExpectName(R"("a.b".f)", "a.b", "f");
  ExpectName(R"(app."1;DROP TABLE x")", "app", "1;DROP TABLE x");
  ExpectName(R"("""".f)", "\"", "f");
}

TEST(QualifiedName, IdentifiersHaveALimit) {
  const std::string longest(63, 'n');
  ExpectName(longest + "." + longest, longest, longest);
  ExpectName("\"" + longest + "\".f", longest, "f");
  EXPECT_FALSE(ParseQualifiedName(longest + "n.f"));
  EXPECT_FALSE(ParseQualifiedName("f." + longest + "n"));
  EXPECT_FALSE(ParseQualifiedName("\"" + longest + "n\".f"));
}

TEST(QualifiedName, AnythingElseIsRefused) {
  for (const char* text :
       {"",        ".",       "f",           "app.",    ".f",          "a.b.c",    "app.f()",  "app.f(text)",
        " app.f",  "app.f ",  "app. f",      "app .f",  "1a.f",        "$a.f",     "app.1f",   "a-b.f",
        "app.f;",  "app.f--", "\"app.f",     "app.\"f", "\"\".f",      "app.\"\"", "\"a\"b.f", "app.\"f\"g",
        "app.'f'", "app.f\n", "\"app\"\".f", "a\xff.f", "app.f, app.g"}) {
    EXPECT_FALSE(ParseQualifiedName(text)) << text;
  }
  EXPECT_FALSE(ParseQualifiedName(std::string("\"a\0b\".f", 7)));
  EXPECT_FALSE(ParseQualifiedName(std::string("a.f\0", 4)));
}

}  // namespace
}  // namespace token_refresh
