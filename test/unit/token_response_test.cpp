#include "core/token_response.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "core/utf8.h"
#include "token_answers.h"

namespace token_refresh {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(TokenResponseTest, ReadsAnOrdinaryAnswer) {
  const TokenSet tokens = Tokens(
      R"({"access_token":"fake-a","token_type":"bearer","expires_in":3600,"refresh_token":"fake-r","scope":"a b"})");
  EXPECT_EQ(tokens.access_token.view(), "fake-a");
  EXPECT_EQ(tokens.refresh_token.view(), "fake-r");
  EXPECT_EQ(tokens.token_type, "Bearer");
  EXPECT_EQ(tokens.scope, "a b");
  EXPECT_EQ(tokens.expires_in, kHour);
  EXPECT_FALSE(tokens.refresh_expires_in.has_value());
  EXPECT_FALSE(tokens.refresh_in.has_value());
  EXPECT_TRUE(tokens.warnings.empty());
}

TEST(TokenResponseTest, TheLeastThatIsASuccess) {
  const TokenSet tokens = Tokens(Answer(201, R"({"access_token":"fake-a"})", ""));
  EXPECT_EQ(tokens.access_token.view(), "fake-a");
  EXPECT_TRUE(tokens.refresh_token.empty());
  EXPECT_EQ(tokens.token_type, "Bearer");
  EXPECT_EQ(tokens.scope, "");
  EXPECT_FALSE(tokens.expires_in.has_value());
  EXPECT_TRUE(tokens.warnings.empty());
}

TEST(TokenResponseTest, EachStatusOfSuccessIsOne) {
  for (const int status : {200, 201, 202, 203, 206, 207, 226, 299}) {
    EXPECT_EQ(Tokens(Answer(status, R"({"access_token":"fake-a"})")).access_token.view(), "fake-a") << status;
  }
  for (const int status : {0, 100, 199, 300, 400, 500, 999}) {
    const FailedAnswer failed = Refused(Answer(status, R"({"access_token":"fake-a","refresh_token":"fake-r"})"));
    EXPECT_TRUE(failed.refresh_token.empty()) << status;
    EXPECT_FALSE(failed.unread_success) << status;
  }
}

TEST(TokenResponseTest, TheBodyDecidesNotTheContentType) {
  EXPECT_EQ(Tokens(Answer(200, "\xEF\xBB\xBF \n{\"access_token\":\"fake-a\"}\n", "text/html")).access_token.view(),
            "fake-a");
  const TokenSet form =
      Tokens(Answer(200, "access_token=fake%2Ba&expires_in=28800&refresh_token=fake-r&scope=&token_type=bearer\n", ""));
  EXPECT_EQ(form.access_token.view(), "fake+a");
  EXPECT_EQ(form.refresh_token.view(), "fake-r");
  EXPECT_EQ(form.expires_in, 8 * kHour);
  EXPECT_EQ(form.token_type, "Bearer");
  EXPECT_TRUE(form.warnings.empty());
}

TEST(TokenResponseTest, ReadsExpiresWhereExpiresInIsMissing) {
  EXPECT_EQ(Tokens(Answer(200, "access_token=fake-a&expires=5183999", "text/plain")).expires_in, 5183999 * kSecond);
  EXPECT_EQ(Tokens(R"({"access_token":"a","expires":60,"expires_in":70})").expires_in, 70 * kSecond);
  const TokenSet absolute = Tokens(R"({"access_token":"a","expires":1700003600})");
  EXPECT_FALSE(absolute.expires_in.has_value());
  EXPECT_THAT(absolute.warnings, testing::ElementsAre("expires is too large for a lifetime; ignored"));
}

TEST(TokenResponseTest, ATextInAnotherEncodingDoesNotCostTheTokens) {
  const TokenSet tokens = Tokens("{\"access_token\":\"fake-a\",\"name\":\"J\xFCrgen\",\"refresh_token\":\"fake-r\"}");
  EXPECT_EQ(tokens.access_token.view(), "fake-a");
  EXPECT_EQ(tokens.refresh_token.view(), "fake-r");
}

TEST(TokenResponseTest, ASmallFlawDoesNotCostTheTokens) {
  const std::string tokens = R"("access_token":"fake-a","refresh_token":"fake-r")";
  for (const std::string& body :
       {"{\"x\":NaN," + tokens + "}", "{\"x\":[1e999,-Infinity]," + tokens + "}", "{\"x\":\"\\udc00\"," + tokens + "}",
        "{\"x\":\"two\nlines\"," + tokens + "}", "{" + tokens + ",}", "{" + tokens + "}\n<!-- served -->",
        ")]}'\n{" + tokens + "}", ")]}',{" + tokens + "}", "\xEF\xBB\xBF)]}'\n{" + tokens + "}",
        "{\"refresh_token\":\"\"," + tokens + ",\"access_token\":null}"}) {
    const TokenSet read = Tokens(body);
    EXPECT_EQ(read.access_token.view(), "fake-a") << body;
    EXPECT_EQ(read.refresh_token.view(), "fake-r") << body;
    EXPECT_TRUE(read.warnings.empty()) << body;
  }
  const TokenSet unknown = Tokens("{" + tokens + ",\"expires_in\":1e999}");
  EXPECT_FALSE(unknown.expires_in.has_value());
  EXPECT_EQ(unknown.warnings.size(), 1u);
}

TEST(TokenResponseTest, AFlawInsideATokenMakesItUnusable) {
  for (const char* flaw : {"\\ud800", "\xFF", "\n", "\\x41", "\\u0000"}) {
    const std::string token = "\"fake-" + std::string(flaw) + "\"";
    const FailedAnswer failed = Refused("{\"access_token\":" + token + ",\"refresh_token\":\"fake-r\"}");
    EXPECT_EQ(failed.refresh_token.view(), "fake-r") << flaw;
    const TokenSet tokens = Tokens("{\"access_token\":\"fake-a\",\"refresh_token\":" + token + "}");
    EXPECT_TRUE(tokens.refresh_token.empty()) << flaw;
    EXPECT_EQ(tokens.warnings.size(), 1u) << flaw;
  }
}

TEST(TokenResponseTest, OfADamagedAnswerBothTokensCountOrTheRefreshTokenAlone) {
  const TokenSet both = Tokens(R"({"access_token":"fake-a","refresh_token":"fake-r","sco)");
  EXPECT_EQ(both.access_token.view(), "fake-a");
  EXPECT_EQ(both.refresh_token.view(), "fake-r");
  EXPECT_THAT(both.warnings, testing::ElementsAre("the answer is damaged JSON; what can be read counts"));

  const FailedAnswer alone = Refused(R"({"refresh_token":"fake-r","access_token":"fake)");
  EXPECT_EQ(alone.refresh_token.view(), "fake-r");
  EXPECT_EQ(alone.failure.message, "HTTP 200: the answer is damaged JSON; its refresh token is kept");
  EXPECT_FALSE(alone.unread_success);

  // The refresh token may stand in what is missing.
  const std::string cut = R"({"access_token":"fake-a","refresh_tok)";
  EXPECT_TRUE(Refused(cut).unread_success);
  EXPECT_EQ(Tokens(Answer(200, cut), ProviderWith(R"({"keep_refresh_token": true})")).access_token.view(), "fake-a");
}

struct ExpiryCase {
  const char* name;
  const char* value;
  std::optional<Micros> expected;
  bool warned;
};

void PrintTo(const ExpiryCase& row, std::ostream* out) { *out << row.name; }

class ExpiresInTest : public testing::TestWithParam<ExpiryCase> {};

TEST_P(ExpiresInTest, IsReadTolerantly) {
  const std::string value = GetParam().value;
  const TokenSet tokens = Tokens("{\"access_token\":\"a\",\"refresh_token\":\"r\",\"expires_in\":" + value + "}");
  EXPECT_EQ(tokens.expires_in, GetParam().expected);
  EXPECT_EQ(tokens.warnings.size(), GetParam().warned ? 1u : 0u);
  EXPECT_EQ(tokens.refresh_token.view(), "r");
}

INSTANTIATE_TEST_SUITE_P(
    Values, ExpiresInTest,
    testing::Values(
        ExpiryCase{"integer", "3600", kHour, false}, ExpiryCase{"fraction", "3600.12", kHour, false},
        ExpiryCase{"text", "\"3600\"", kHour, false}, ExpiryCase{"text_fraction", "\"3600.12\"", kHour, false},
        ExpiryCase{"text_blanks", "\" 3600 \"", kHour, false}, ExpiryCase{"one", "1", kSecond, false},
        ExpiryCase{"below_one", "0.5", std::nullopt, true}, ExpiryCase{"null", "null", std::nullopt, true},
        ExpiryCase{"zero", "0", std::nullopt, true}, ExpiryCase{"negative", "-1", std::nullopt, true},
        ExpiryCase{"negative_text", "\"-3600\"", std::nullopt, true},
        ExpiryCase{"bool_false", "false", std::nullopt, true}, ExpiryCase{"bool_true", "true", std::nullopt, true},
        ExpiryCase{"object", "{}", std::nullopt, true}, ExpiryCase{"array", "[3600]", std::nullopt, true},
        ExpiryCase{"word", "\"zzz\"", std::nullopt, true}, ExpiryCase{"trailing_word", "\"3600s\"", std::nullopt, true},
        ExpiryCase{"empty_text", "\"\"", std::nullopt, true}, ExpiryCase{"nan", "\"NaN\"", std::nullopt, true},
        ExpiryCase{"inf", "\"inf\"", std::nullopt, true}, ExpiryCase{"ten_years", "315360000", kMaxLifetime, false},
        ExpiryCase{"beyond_int32", "4294967296", kMaxLifetime, true},
        ExpiryCase{"beyond_int64", "18446744073709551615", kMaxLifetime, true},
        ExpiryCase{"least_int64", "-9223372036854775808", std::nullopt, true},
        ExpiryCase{"huge", "1e300", kMaxLifetime, true}),
    [](const auto& info) { return info.param.name; });

TEST(TokenResponseTest, ReadsTheRefreshTokensDeadlineUnderEachName) {
  for (const std::string key : {"refresh_token_expires_in", "x_refresh_token_expires_in", "refresh_expires_in"}) {
    EXPECT_EQ(Tokens("{\"access_token\":\"a\",\"" + key + "\":\"8640000\"}").refresh_expires_in, 100 * kDay) << key;
    const TokenSet never = Tokens("{\"access_token\":\"a\",\"" + key + "\":0}");
    EXPECT_FALSE(never.refresh_expires_in.has_value());
    EXPECT_TRUE(never.warnings.empty());
    EXPECT_EQ(Tokens("{\"access_token\":\"a\",\"" + key + "\":\"soon\"}").warnings.size(), 1u);
  }
}

TEST(TokenResponseTest, ReadsTheHintWhenToRefresh) {
  EXPECT_EQ(Tokens(R"({"access_token":"a","refresh_in":43200})").refresh_in, 12 * kHour);
}

TEST(TokenResponseTest, NormalisesTheTokenType) {
  const auto type = [](const std::string& json) {
    const TokenSet tokens = Tokens("{\"access_token\":\"a\",\"token_type\":" + json + "}");
    return tokens.token_type + (tokens.warnings.empty() ? "" : " (warned)");
  };
  for (const char* bearer : {"\"bearer\"", "\"BEARER\"", "\"Bearer\"", "\"BearerToken\"", "\"\"", "null"}) {
    EXPECT_EQ(type(bearer), "Bearer") << bearer;
  }
  EXPECT_EQ(type("\"DPoP\""), "DPoP");
  EXPECT_EQ(type("7"), "Bearer (warned)");
  EXPECT_EQ(type("\"a\\nb\""), "Bearer (warned)");
  EXPECT_EQ(type("\"" + std::string(64, 'x') + "\""), std::string(64, 'x'));
  EXPECT_EQ(type("\"" + std::string(65, 'x') + "\""), "Bearer (warned)");
}

TEST(TokenResponseTest, ReadsScopeAsTextOrList) {
  const auto scope = [](const std::string& json) {
    const TokenSet tokens = Tokens("{\"access_token\":\"a\",\"scope\":" + json + "}");
    return tokens.scope + (tokens.warnings.empty() ? "" : "(warned)");
  };
  EXPECT_EQ(scope("\"a b\""), "a b");
  EXPECT_EQ(scope("[\"a\",\"b\"]"), "a b");
  EXPECT_EQ(scope("[]"), "");
  EXPECT_EQ(scope("null"), "");
  EXPECT_EQ(scope("7"), "(warned)");
  EXPECT_EQ(scope("[\"a\",7]"), "(warned)");
  EXPECT_EQ(scope("{\"a\":1}"), "(warned)");
  EXPECT_EQ(scope("\"a\\u0000b\""), "(warned)");
}

TEST(TokenResponseTest, ARefreshTokenThatIsNoneLeavesTheStoredOne) {
  const auto refresh = [](const std::string& json) {
    const TokenSet tokens = Tokens("{\"access_token\":\"a\",\"refresh_token\":" + json + "}");
    return std::string(tokens.refresh_token.view()) + (tokens.warnings.empty() ? "" : "(warned)");
  };
  EXPECT_EQ(refresh("\"\""), "");
  EXPECT_EQ(refresh("null"), "");
  EXPECT_EQ(refresh("7"), "(warned)");
  EXPECT_EQ(refresh("{}"), "(warned)");
  EXPECT_EQ(refresh("\"a\\u0000b\""), "(warned)");
  EXPECT_EQ(refresh("\"a\\nb\""), "(warned)");
  EXPECT_EQ(refresh("\"a\xFF\""), "(warned)");
  EXPECT_EQ(refresh("\"new\""), "new");
}

TEST(TokenResponseTest, KeepRefreshTokenIgnoresTheOneInTheAnswer) {
  const Provider provider = ProviderWith(R"({"keep_refresh_token": true})");
  EXPECT_TRUE(Tokens(Answer(200, R"({"access_token":"a","refresh_token":"r"})"), provider).refresh_token.empty());
}

TEST(TokenResponseTest, ATokenBesideAnErrorCounts) {
  for (const char* extra : {R"("error":"invalid_grant")", R"("ok":false)"}) {
    const TokenSet tokens = Tokens("{\"access_token\":\"fake-a\"," + std::string(extra) + "}");
    EXPECT_EQ(tokens.access_token.view(), "fake-a");
    EXPECT_EQ(tokens.warnings.size(), 1u);
  }
}

TEST(TokenResponseTest, NoWarningHoldsAToken) {
  const TokenSet tokens =
      Tokens(R"({"access_token":"fake-a","refresh_token":["fake-r"],"expires_in":"fake-e","scope":{"fake-s":1}})");
  EXPECT_EQ(tokens.warnings.size(), 3u);
  for (const std::string& warning : tokens.warnings) EXPECT_THAT(warning, Not(HasSubstr("fake")));
}

TEST(TokenResponseTest, BracketsInsideTextAreNoNesting) {
  EXPECT_EQ(Tokens("{\"x\":\"\\\"" + std::string(100, '[') + "\",\"access_token\":\"a\"}").access_token.view(), "a");
}

// The same mutations in each run: nothing may throw, crash, or be called dead
// because a bit fell over.
TEST(TokenResponseTest, SurvivesDamage) {
  const std::string whole =
      R"({"access_token":"fake-a","expires_in":"3600","refresh_token":"fake-r","x":[{"y":1.5e3}],"scope":["a"]})";
  uint64_t state = 88172645463325252u;
  const auto next = [&state] {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
  };
  for (int round = 0; round < 20000; ++round) {
    std::string damaged = whole.substr(0, next() % 4 == 0 ? next() % whole.size() : whole.size());
    for (uint64_t changes = next() % 4; changes > 0 && !damaged.empty(); --changes) {
      damaged[next() % damaged.size()] = static_cast<char>(next());
    }
    const auto result = Read(Answer(next() % 2 == 0 ? 200 : 400, damaged));
    if (const auto* failed = std::get_if<FailedAnswer>(&result)) {
      ASSERT_EQ(failed->failure.failure, FailureClass::kTransient) << round;
      ASSERT_LE(failed->failure.message.size(), kMaxFailureMessage);
      ASSERT_TRUE(IsCleanText(failed->refresh_token.view())) << round;
    } else {
      ASSERT_TRUE(IsCleanText(std::get<TokenSet>(result).access_token.view())) << round;
    }
  }
}

}  // namespace
}  // namespace token_refresh
