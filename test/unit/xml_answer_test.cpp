#include "core/xml_answer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "core/http.h"
#include "core/token_response.h"
#include "option_parsing.h"

namespace token_refresh {
namespace {

std::string Dumped(std::string_view xml) {
  const AnswerBody body = ReadXmlAnswer(xml);
  if (body.kind != BodyKind::kObject) return "kind " + std::to_string(static_cast<int>(body.kind));
  return std::string(body.fields.dump());
}

std::string Kind(BodyKind kind) { return "kind " + std::to_string(static_cast<int>(kind)); }

TEST(XmlAnswerTest, ElementsBecomeMembers) {
  EXPECT_EQ(Dumped("<?xml version=\"1.0\"?>\n<!-- x --><r a=\"1\"><b type=\"t\"> 1\n</b><c><d>x</d></c><e/></r>\n"),
            R"({"r":{"b":"1","c":{"d":"x"},"e":""}})");
  EXPECT_EQ(Dumped("<r>text</r>"), R"({"r":"text"})");
  EXPECT_EQ(Dumped("<r><b>1</b>between<c>2</c></r>"), R"({"r":{"b":"1","c":"2"}})");
  EXPECT_EQ(Dumped("<n:r xmlns:n=\"urn:x\"><n:b>1</n:b></n:r>"), R"({"n:r":{"n:b":"1"}})");
}

TEST(XmlAnswerTest, SeveralOfOneNameAreAList) {
  EXPECT_EQ(Dumped("<r><e>1</e><o/><e>2</e><e><x>3</x></e></r>"), R"({"r":{"e":["1","2",{"x":"3"}],"o":""}})");
}

TEST(XmlAnswerTest, TextIsPutTogether) {
  EXPECT_EQ(Dumped("<r><t>a&amp;b&lt;&#65;&#x42;<!-- no -->c<![CDATA[<d>&amp;]]></t></r>"),
            R"({"r":{"t":"a&b<ABc<d>&amp;"}})");
}

TEST(XmlAnswerTest, BytesThatAreNoUtf8AreMarked) {
  EXPECT_EQ(Dumped("<r><a>f\xE4lle</a><b>1</b></r>"), "{\"r\":{\"a\":\"f\xEF\xBF\xBDlle\",\"b\":\"1\"}}");
  // Half of a surrogate pair is no character.
  EXPECT_NE(Dumped("<r>&#xD800;</r>").find("\xEF\xBF\xBD"), std::string::npos);
}

TEST(XmlAnswerTest, WhatIsNotWholeDoesNotCount) {
  for (const char* xml : {"<r><a>1</a>", "<r><a>1</b></r>", "<r", "<>", "<r/><s/>", "<?xml version=\"1.0\"?>",
                          "<!-- x -->", "<r a=1/>", "<r>x</r><s>y</s>"}) {
    EXPECT_EQ(Dumped(xml), Kind(BodyKind::kUnreadable)) << xml;
  }
}

TEST(XmlAnswerTest, NoTextEndsAtANul) {
  for (const std::string& xml :
       {std::string("<r>a\0b</r>", 10), std::string("<r>a&#0;b</r>"), std::string("<r>a&#x000;b</r>"),
        std::string("<r>a&#4294967296;b</r>"), std::string("<r>a&#x100000000;b</r>")}) {
    EXPECT_EQ(Dumped(xml), Kind(BodyKind::kUnreadable)) << xml;
  }
  EXPECT_EQ(Dumped("<r>a&#0065;b</r>"), R"({"r":"aAb"})");
}

TEST(XmlAnswerTest, PagesAndDeclarationsAreMarkup) {
  const std::string laughs =
      "<?xml version=\"1.0\"?><!DOCTYPE lolz [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\">"
      "<!ENTITY c SYSTEM \"file:///etc/passwd\">]><r><access_token>&b;&c;</access_token></r>";
  EXPECT_EQ(Dumped(laughs), Kind(BodyKind::kMarkup));
  EXPECT_EQ(Dumped("<!doctype html><p>x</p>"), Kind(BodyKind::kMarkup));
  EXPECT_EQ(Dumped("<HTML><body>x</body></HTML>"), Kind(BodyKind::kMarkup));
  EXPECT_EQ(Dumped("<r>&unknown;</r>"), R"({"r":"&unknown;"})");
}

std::string Repeated(std::string_view text, size_t count) {
  std::string repeated;
  for (size_t i = 0; i < count; ++i) repeated += text;
  return repeated;
}

TEST(XmlAnswerTest, HostileSizesAreBoundedInTime) {
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(Dumped(Repeated("<a>", 100000) + "1" + Repeated("</a>", 100000)), Kind(BodyKind::kTooDeep));
  EXPECT_EQ(Dumped(Repeated("<a>", 300000)), Kind(BodyKind::kUnreadable));
  EXPECT_EQ(Dumped(Repeated("<a>", 31) + "1" + Repeated("</a>", 31)).substr(0, 6), "{\"a\":{");
  EXPECT_EQ(Dumped(Repeated("<a>", 34) + "1" + Repeated("</a>", 34)), Kind(BodyKind::kTooDeep));
  EXPECT_EQ(Dumped("<r>" + Repeated("<a/>", 250000) + "</r>").size(), 250000 * 3 + 13);
  EXPECT_EQ(Dumped("<r " + Repeated("a='' ", 200000) + ">x</r>"), R"({"r":"x"})");
  EXPECT_EQ(Dumped("<r>" + Repeated("&amp;", 200000) + "</r>").size(), 200000 + 8);
  const auto took = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(std::chrono::duration_cast<std::chrono::seconds>(took).count(), 10);
}

TEST(XmlAnswerTest, OnlyWhereTheOptionSaysSo) {
  constexpr std::string_view kXml = "<r><access_token>fake</access_token></r>";
  EXPECT_EQ(ReadAnswerBody(kXml).kind, BodyKind::kMarkup);
  EXPECT_EQ(ReadAnswerBody(kXml, AnswerFormat::kXml).kind, BodyKind::kObject);
  EXPECT_EQ(ReadAnswerBody("\xEF\xBB\xBF <r/>", AnswerFormat::kXml).kind, BodyKind::kObject);
  // The body still decides between XML and JSON.
  EXPECT_EQ(ReadAnswerBody(R"({"access_token": "x"})", AnswerFormat::kXml).kind, BodyKind::kObject);
  EXPECT_EQ(ReadAnswerBody(std::string(kMaxResponseBytes + 1, '<'), AnswerFormat::kXml).kind, BodyKind::kTooLarge);
}

std::variant<TokenSet, FailedAnswer> Read(std::string_view body, int status = 200) {
  Provider provider;
  provider.options = ParsedOptions(R"({"response_format": "xml", "response_pointers": {
      "access_token": "/credentials/access-token", "refresh_token": "/credentials/refresh-token",
      "expires_in": "/credentials/expires-in", "error": "/api-error/code", "error_description": "/api-error/message"},
      "error_rules": [{"pointer": "/api-error/code", "value": "93802", "class": "reauth"}]})");
  HttpResponse response;
  response.status = status;
  response.body = Secret(body);
  return ReadTokenResponse(provider, response, {"fake-sent"}, 1'700'000'000 * kSecond);
}

TEST(XmlAnswerTest, TokensAreFoundByPointers) {
  const auto answer = Read(
      "<credentials><access-token>fake-a</access-token><refresh-token>fake-r</refresh-token>"
      "<expires-in type=\"integer\">3600</expires-in></credentials>");
  ASSERT_TRUE(std::holds_alternative<TokenSet>(answer));
  const auto& tokens = std::get<TokenSet>(answer);
  EXPECT_EQ(tokens.access_token.view(), "fake-a");
  EXPECT_EQ(tokens.refresh_token.view(), "fake-r");
  EXPECT_EQ(tokens.expires_in, 3600 * kSecond);
}

TEST(XmlAnswerTest, ATokenOfOddBytesIsNone) {
  const auto answer = Read("<credentials><access-token>f\xE4ke</access-token></credentials>");
  ASSERT_TRUE(std::holds_alternative<FailedAnswer>(answer));
  EXPECT_EQ(std::get<FailedAnswer>(answer).failure.failure, FailureClass::kTransient);
}

TEST(XmlAnswerTest, ErrorsAreJudgedAsEver) {
  const auto failure = [](std::string_view body, int status) {
    const auto answer = Read(body, status);
    const auto* failed = std::get_if<FailedAnswer>(&answer);
    return failed == nullptr ? FailureClass::kSuperseded : failed->failure.failure;
  };
  constexpr std::string_view kDead = "<api-error><code>93802</code><message>gone</message></api-error>";
  EXPECT_EQ(failure(kDead, 422), FailureClass::kReauth);
  EXPECT_EQ(failure(kDead, 500), FailureClass::kTransient);
  EXPECT_EQ(failure("<html><body>invalid_grant</body></html>", 400), FailureClass::kTransient);
  EXPECT_EQ(failure("<credentials><access-token>", 200), FailureClass::kTransient);
}

}  // namespace
}  // namespace token_refresh
