#include "core/failure.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "core/utf8.h"

namespace token_refresh {
namespace {

TEST(FailureNameTest, EveryClassHasItsWordAndComesBack) {
  const std::vector<std::pair<FailureClass, std::string_view>> words = {
      {FailureClass::kTransient, "transient"},
      {FailureClass::kRateLimited, "rate_limited"},
      {FailureClass::kReauth, "reauth"},
      {FailureClass::kClientConfig, "client_config"},
      {FailureClass::kTooEarly, "too_early"},
      {FailureClass::kSuperseded, "superseded"},
      {FailureClass::kLostResponse, "lost_response"},
  };
  for (const auto& [failure, word] : words) {
    EXPECT_EQ(FailureName(failure), word);
    EXPECT_EQ(ParseFailureName(word), failure);
  }
}

TEST(FailureNameTest, RefusesOtherWords) {
  for (const std::string_view word : {"", "Transient", "reauth ", "revoked"}) {
    EXPECT_FALSE(ParseFailureName(word).has_value()) << word;
  }
}

struct ScrubCase {
  const char* name;
  std::string text;
  std::vector<std::string_view> secrets;
  std::string expected;
};

void PrintTo(const ScrubCase& row, std::ostream* out) { *out << row.name; }

class ScrubTextTest : public testing::TestWithParam<ScrubCase> {};

TEST_P(ScrubTextTest, Scrubs) { EXPECT_EQ(ScrubText(GetParam().text, GetParam().secrets), GetParam().expected); }

INSTANTIATE_TEST_SUITE_P(
    Texts, ScrubTextTest,
    testing::Values(
        ScrubCase{"empty", "", {"hush"}, ""}, ScrubCase{"plain", "The grant was revoked", {}, "The grant was revoked"},
        ScrubCase{"secret", "token hush is bad, hush!", {"hush"}, "token [redacted] is bad, [redacted]!"},
        ScrubCase{"empty_secret_is_no_secret", "all right", {""}, "all right"},
        ScrubCase{"one_letter_secret", "abc", {"b"}, "a[redacted]c"},
        ScrubCase{"longest_secret_first", "see hushhush", {"hush", "hushhush"}, "see [redacted]"},
        ScrubCase{"overlapping_secrets", "x abcdef y", {"abcd", "cdef"}, "x [redacted] y"},
        ScrubCase{"secret_with_blanks", "x very secret y", {"very secret"}, "x [redacted] y"},
        ScrubCase{"secret_with_control_characters", "x a\nb y", {"a\nb"}, "x [redacted] y"},
        ScrubCase{"secret_that_begins_inside_a_token_run", "0123456789012345678aa bb c", {"aa bb"}, "[redacted] c"},
        ScrubCase{"base64_run", "got c2VjcmV0LXRva2VuLXZhbHVl here", {}, "got [redacted] here"},
        ScrubCase{"hex_run", "id 0af7651916cd43dd8448eb211c80319c.", {}, "id [redacted]"},
        ScrubCase{"jwt", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJub2JvZHkifQ.", {}, "[redacted]"},
        ScrubCase{"percent_encoded", "a%2Fb%2Bcdefghijklmnop", {}, "[redacted]"},
        ScrubCase{"short_secret_percent_encoded", "bad a%2Fb%2b", {"a/b+"}, "bad [redacted]"},
        ScrubCase{"all_of_it_percent_encoded", "bad %68%75%73%68!", {"hush"}, "bad [redacted]!"},
        ScrubCase{"some_of_it_percent_encoded", "bad h%75sh", {"hush"}, "bad [redacted]"},
        ScrubCase{"form_encoded", "a=very+big+%2B&b", {"very big +"}, "a=[redacted]&b"},
        ScrubCase{"a_plus_in_a_percent_encoded_secret", "x a+b%3D", {"a+b="}, "x [redacted]"},
        ScrubCase{"a_secret_with_a_percent_sign", "%41b %2541b", {"%41b"}, "[redacted] [redacted]"},
        ScrubCase{"a_decoded_one_is_another", "x %41b", {"%2541b"}, "x %41b"},
        ScrubCase{"json_escapes", R"(x a\/b\u002B\")", {"a/b+\""}, "x [redacted]"},
        ScrubCase{"html_references", "x a&#x2F;b&#43;&amp;&quot;&#061; y", {"a/b+&\"="}, "x [redacted] y"},
        ScrubCase{"a_secret_with_a_percent_sign_in_json", R"(x %41b\/ y)", {"%41b/"}, "x [redacted] y"},
        ScrubCase{"a_secret_with_a_percent_sign_in_html", "x %41b&amp; y", {"%41b&"}, "x [redacted] y"},
        ScrubCase{"a_secret_with_a_reference_percent_encoded", "x &lt;%2F&l%74;+ y", {"&lt;/&lt; "}, "x [redacted] y"},
        ScrubCase{"a_secret_with_a_backslash_percent_encoded", R"(x \n%2F+ y)", {R"(\n/+)"}, "x [redacted] y"},
        ScrubCase{"behind_a_lone_ampersand", "?a&b=h%75sh", {"hush"}, "?a&b=[redacted]"},
        ScrubCase{"secrets_that_overlap_in_escapes", "x ab%63def y", {"abcd", "cdef"}, "x [redacted] y"},
        ScrubCase{"one_within_an_escape", "x %6168 y", {"h", "6168"}, "x %[redacted] y"},
        ScrubCase{"no_escapes",
                  R"(100% \x \u12 \u00g1 &nbsp; &#x; &#256; &#; %2 %g1 %)",
                  {"hush"},
                  R"(100% \x \u12 \u00g1 &nbsp; &#x; &#256; &#; %2 %g1 %)"},
        ScrubCase{"an_empty_secret_among_escapes", "a%2Fb %2", {""}, "a%2Fb %2"},
        ScrubCase{"no_digit_but_random_case", "KqWxRtYvZbNmLpQsDfGh", {}, "[redacted]"},
        ScrubCase{"endless_word", "qwrtpsdfghjklzxcvbnm", {}, "[redacted]"},
        ScrubCase{"nineteen_characters", "a123456789012345678", {}, "a123456789012345678"},
        ScrubCase{"error_code",
                  "unsupported_grant_type, invalid_refresh_token",
                  {},
                  "unsupported_grant_type, invalid_refresh_token"},
        ScrubCase{"camel_case", "InvalidRefreshTokenException", {}, "InvalidRefreshTokenException"},
        ScrubCase{
            "host_name", "see https://developer.example.com/errors", {}, "see https://developer.example.com/errors"},
        ScrubCase{"control_characters", std::string("a\nb\tc\0d\x7f", 8), {}, "a b c d "},
        ScrubCase{"c1_control_character", "a\xC2\x85z", {}, "a z"},
        ScrubCase{"invalid_utf8", "a\xFFz \xE2\x82 \xED\xA0\x80", {}, "a z       "},
        ScrubCase{"other_scripts",
                  "Gr\xC3\xBC\xC3\x9F"
                  "e \xE6\xBC\xA2 \xF0\x9F\x94\x91",
                  {},
                  "Gr\xC3\xBC\xC3\x9F"
                  "e \xE6\xBC\xA2 \xF0\x9F\x94\x91"}),
    [](const auto& info) { return info.param.name; });

std::string Words(size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += "words ";
  text.resize(bytes);
  return text;
}

TEST(ScrubTextLengthTest, KeepsWhatFitsExactly) { EXPECT_EQ(ScrubText(Words(300), {}), Words(300)); }

TEST(ScrubTextLengthTest, CutsWhatIsLonger) {
  const std::string cut = ScrubText(Words(301), {});
  EXPECT_EQ(cut, Words(297) + "...");
  EXPECT_EQ(cut.size(), kMaxFailureMessage);
}

TEST(ScrubTextLengthTest, DoesNotCutACharacterInTwo) {
  for (size_t shift = 0; shift < 4; ++shift) {
    std::string text(shift, ' ');
    for (int i = 0; i < 100; ++i) text += "\xF0\x9F\x94\x91";
    const std::string cut = ScrubText(text, {});
    EXPECT_TRUE(IsUtf8(cut)) << shift;
    EXPECT_LE(cut.size(), kMaxFailureMessage);
    EXPECT_TRUE(cut.ends_with("..."));
  }
}

TEST(ScrubTextLengthTest, ASecretAcrossTheCutDoesNotShow) {
  const std::string secret = "fake words that nobody may see";
  for (size_t before = 260; before <= 310; ++before) {
    const std::string cut = ScrubText(Words(before) + secret, {secret});
    EXPECT_EQ(cut.find("fake"), std::string::npos) << before;
  }
}

TEST(ScrubTextLengthTest, ManyMegabytesAreNoBurden) {
  EXPECT_LE(ScrubText(std::string(8 << 20, 'x'), {"secret"}).size(), kMaxFailureMessage);
}

// At each place of what is redacted each secret may begin: as many steps as there are bytes, times the length of a
// secret.
TEST(ScrubTextLengthTest, WhatIsRedactedAtLengthIsNoBurden) {
  const std::string secret = std::string(250'000, 'a') + "b";
  const std::string text(500'000, 'a');
  const std::vector<std::string_view> secrets(40, secret);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(ScrubText(text, secrets), "[redacted]...");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
}

TEST(ScrubTextLengthTest, NoPartOfASecretShowsWhereALongTextIsNotLookedAtAnyMore) {
  const std::string secret = "fake words that nobody may see";
  for (size_t hidden = 2340; hidden <= 2420; ++hidden) {
    // The redaction of what comes first leaves room for all that follows.
    const std::string long_secret(hidden, '!');
    const std::string text = long_secret + secret + std::string(5000, ' ');
    const std::string scrubbed = ScrubText(text, {long_secret, secret});
    EXPECT_EQ(scrubbed.find("fake"), std::string::npos) << hidden << ": " << scrubbed;
  }
}

TEST(ScrubTextLengthTest, NoPartOfAnEncodedSecretShowsThereEither) {
  const std::string secret = "fake/one", encoded = "f%61ke%2F&#x6f;n\\u0065";
  for (size_t hidden = 2370; hidden <= 2400; ++hidden) {
    const std::string long_secret(hidden, '!');
    const std::string scrubbed = ScrubText(long_secret + encoded + std::string(5000, ' '), {long_secret, secret});
    EXPECT_EQ(scrubbed.find_first_of("f%#\\"), std::string::npos) << hidden << ": " << scrubbed;
  }
}

TEST(ScrubTextLengthTest, EscapesAtLengthAreNoBurden) {
  const std::string secret = std::string(250'000, 'a') + "b";
  std::string text;
  while (text.size() < 500'000) text += "%61";
  const std::vector<std::string_view> secrets(40, secret);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(ScrubText(text, secrets), "[redacted]...");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
}

TEST(ScrubTextLengthTest, NoPartOfATokenRunShowsWhereALongTextIsNotLookedAtAnyMore) {
  const std::string long_secret(2395, '!');
  EXPECT_EQ(ScrubText(long_secret + " c2VjcmV0LXRva2VuLXZhbHVl", {long_secret}), "[redacted] [redacted]...");
}

}  // namespace
}  // namespace token_refresh
