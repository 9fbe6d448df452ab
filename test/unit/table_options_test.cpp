#include "core/table_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>

namespace token_refresh {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::Pair;
using testing::UnorderedElementsAre;

// The least that is complete.
json Least() {
  return {{"provider", "google"},
          {"access_token_column", "access_token"},
          {"refresh_token_column", "refresh_token"},
          {"expires_at_column", "expires_at"},
          {"cipher", "plain"}};
}

json With(const json& more) {
  json options = Least();
  options.update(more);
  return options;
}

json Without(const std::string& key) {
  json options = Least();
  options.erase(key);
  return options;
}

TableOptions Parsed(const json& options) {
  TableOptions parsed;
  for (const OptionProblem& problem : ParseTableOptions(options.dump(), parsed)) ADD_FAILURE() << problem.problem;
  return parsed;
}

std::vector<OptionProblem> Problems(const std::string& text) {
  TableOptions parsed;
  return ParseTableOptions(text, parsed);
}

// Expects one problem, of that option, and returns what it says.
std::string Refused(const json& options, const std::string& option) {
  const std::vector<OptionProblem> problems = Problems(options.dump());
  for (const OptionProblem& problem : problems) EXPECT_EQ(problem.option, option) << problem.problem;
  EXPECT_EQ(problems.size(), 1u) << options;
  if (problems.empty()) return "";
  EXPECT_THAT(problems[0].problem, HasSubstr("option \"" + option + "\" "));
  return problems[0].problem;
}

std::vector<std::string> OptionsOf(const std::vector<OptionProblem>& problems) {
  std::vector<std::string> options;
  for (const OptionProblem& problem : problems) options.push_back(problem.option);
  return options;
}

TEST(TableOptionsTest, TheLeastThatIsComplete) {
  const TableOptions options = Parsed(Least());
  EXPECT_EQ(options.provider, "google");
  EXPECT_EQ(options.label, "");
  EXPECT_THAT(options.columns,
              UnorderedElementsAre(Pair("access_token", "access_token"), Pair("refresh_token", "refresh_token"),
                                   Pair("expires_at", "expires_at")));
  EXPECT_THAT(options.status_values, IsEmpty());
  EXPECT_EQ(options.result_values.success, "success");
  EXPECT_EQ(options.result_values.failure, "error");
  EXPECT_EQ(options.filter, "");
  EXPECT_EQ(options.cipher, TableCipher::kPlain);
  EXPECT_EQ(options.key, "");
  EXPECT_TRUE(options.trigger);
  EXPECT_EQ(options.poll_interval, std::nullopt);
  EXPECT_EQ(options.refresh_margin, std::nullopt);
  EXPECT_EQ(options.time_zone, "UTC");
}

TEST(TableOptionsTest, ReadsEveryOption) {
  const TableOptions options = Parsed(json::parse(R"({
    "provider_column": "Platform", "subject_column": "user \"id\"", "label_column": "tenant",
    "access_token_column": "a", "refresh_token_column": "r", "expires_at_column": "e", "scope_column": "s",
    "status_column": "st", "status_values": {"connected": "ok", "token_expired": "old", "needs_reauth": "login",
    "error": "broken", "disconnected": "off"}, "error_column": "err", "result_column": "res",
    "result_values": {"success": "done", "failure": "failed"}, "refreshed_at_column": "ra", "updated_at_column": "ua",
    "filter": "active\n  AND NOT deleted", "cipher": "aes-256-gcm-hex", "key": "app-1", "trigger": false,
    "poll_interval": 1000000, "refresh_margin": 60000000, "time_zone": "Europe/Berlin"})"));
  EXPECT_EQ(options.provider, "");
  EXPECT_THAT(
      options.columns,
      UnorderedElementsAre(Pair("provider", "Platform"), Pair("subject", "user \"id\""), Pair("label", "tenant"),
                           Pair("access_token", "a"), Pair("refresh_token", "r"), Pair("expires_at", "e"),
                           Pair("scope", "s"), Pair("status", "st"), Pair("last_error", "err"), Pair("result", "res"),
                           Pair("refreshed_at", "ra"), Pair("updated_at", "ua")));
  EXPECT_THAT(options.status_values,
              UnorderedElementsAre(Pair("connected", "ok"), Pair("token_expired", "old"), Pair("needs_reauth", "login"),
                                   Pair("error", "broken"), Pair("disconnected", "off")));
  EXPECT_EQ(options.result_values.success, "done");
  EXPECT_EQ(options.result_values.failure, "failed");
  EXPECT_EQ(options.filter, "active\n  AND NOT deleted");
  EXPECT_EQ(options.cipher, TableCipher::kAes256GcmHex);
  EXPECT_EQ(options.key, "app-1");
  EXPECT_FALSE(options.trigger);
  EXPECT_EQ(options.poll_interval, kSecond);
  EXPECT_EQ(options.refresh_margin, kMinute);
  EXPECT_EQ(options.time_zone, "Europe/Berlin");
}

TEST(TableOptionsTest, EveryProblemIsReportedAtOnce) {
  const std::vector<OptionProblem> problems = Problems(R"({
    "provider": 7, "provider_column": "p", "label": "", "label_column": "", "access_token_column": "a",
    "refresh_token_column": "a", "status_values": {"fine": "x", "error": 1}, "filter": " ", "cipher": "rot13",
    "trigger": "no", "poll_interval": "soon", "refresh_margin": -1, "time_zone": "", "colour": "red",
    "expires_at": "e"})");
  EXPECT_THAT(OptionsOf(problems),
              ElementsAre("colour", "expires_at", "label_column", "expires_at_column", "provider", "status_values",
                          "status_values", "filter", "cipher", "trigger", "poll_interval", "refresh_margin",
                          "time_zone", "provider", "label", "status_values", "refresh_token_column"));
}

TEST(TableOptionsTest, WhatCouldBeReadIsThereInSpiteOfProblems) {
  TableOptions options;
  EXPECT_THAT(ParseTableOptions(With({{"subject_column", "s"}, {"colour", "red"}, {"trigger", 1}}).dump(), options),
              testing::SizeIs(2));
  EXPECT_EQ(options.provider, "google");
  EXPECT_EQ(options.columns["subject"], "s");
  EXPECT_EQ(options.cipher, TableCipher::kPlain);
}

TEST(TableOptionsTest, OptionsOfAnEarlierCallAreForgotten) {
  TableOptions options = Parsed(With({{"label", "old"}, {"scope_column", "s"}, {"trigger", false}}));
  EXPECT_THAT(ParseTableOptions(Least().dump(), options), IsEmpty());
  EXPECT_EQ(options.label, "");
  EXPECT_EQ(options.columns.count("scope"), 0u);
  EXPECT_TRUE(options.trigger);
}

TEST(TableOptionsTest, TheWholeMustBeAnObject) {
  for (const std::string& text : {std::string(), std::string("null"), std::string("[]"), std::string("\"x\""),
                                  std::string("{"), std::string("{} {}"), std::string("{\"a\":\"\xff\"}")}) {
    const std::vector<OptionProblem> problems = Problems(text);
    ASSERT_EQ(problems.size(), 1u) << text;
    EXPECT_EQ(problems[0].option, "");
    EXPECT_EQ(problems[0].problem, "table options must be a JSON object");
  }
  EXPECT_THAT(Problems(std::string(64 * 1024 + 1, ' '))[0].problem, HasSubstr("64 KiB"));
  EXPECT_THAT(Problems("{\"filter\":" + std::string(40, '[') + std::string(40, ']') + "}")[0].problem,
              HasSubstr("32 levels"));
}

TEST(TableOptionsTest, WhatIsRequiredIsNamed) {
  EXPECT_THAT(OptionsOf(Problems("{}")),
              ElementsAre("access_token_column", "refresh_token_column", "expires_at_column", "provider", "cipher"));
  for (const char* key : {"access_token_column", "refresh_token_column", "expires_at_column"}) {
    EXPECT_THAT(Refused(Without(key), key), HasSubstr("is missing"));
  }
  EXPECT_THAT(Refused(Without("provider"), "provider"), HasSubstr("provider_column"));
  EXPECT_THAT(Refused(Without("cipher"), "cipher"), HasSubstr("no default"));
}

TEST(TableOptionsTest, UnknownOptionsSuggestAndTheFirstListsAll) {
  const std::string listing = Refused(With({{"colour", "red"}}), "colour");
  for (const OptionSpec& spec : TableOptionSpecs()) EXPECT_THAT(listing, HasSubstr(spec.key));
  EXPECT_THAT(listing, Not(HasSubstr("did you mean")));
  EXPECT_THAT(listing, Not(HasSubstr("red,")));
  EXPECT_THAT(Refused(With({{"pol_intervall", 1}}), "pol_intervall"), HasSubstr("did you mean \"poll_interval\"?"));
  EXPECT_THAT(Refused(With({{"Filter", "x"}}), "Filter"), HasSubstr("did you mean \"filter\"?"));
  EXPECT_THAT(Refused(With({{"subject", "x"}}), "subject"), HasSubstr("did you mean \"subject_column\"?"));

  const std::vector<OptionProblem> two = Problems(With({{"colour", 1}, {"keys", 1}}).dump());
  ASSERT_EQ(two.size(), 2u);
  EXPECT_THAT(two[0].problem, HasSubstr("the options are"));
  EXPECT_EQ(two[1].problem, "option \"keys\" is unknown; did you mean \"key\"?");
}

TEST(TableOptionsTest, UnknownOptionsAreCutAndMadePrintable) {
  const std::vector<OptionProblem> problems = Problems(With({{std::string(100, 'x') + "\n", 1}}).dump());
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_EQ(problems[0].option, std::string(64, 'x') + "...");
  EXPECT_EQ(Problems(With({{"a\nb\xc3\xa4", 1}}).dump())[0].option, "a?b??");
}

TEST(TableOptionsTest, EveryOptionHasItsType) {
  for (const OptionSpec& spec : TableOptionSpecs()) {
    for (const json& value : {json(nullptr), json(1.5), json::array()}) {
      json options = With({{std::string(spec.key), value}});
      // So that no combination is wrong as well.
      if (spec.key == "provider_column") options.erase("provider");
      if (spec.key == "key") options["cipher"] = "aes-256-gcm-hex";
      if (spec.key == "status_values") options["status_column"] = "st";
      if (spec.key == "result_values") options["result_column"] = "res";
      EXPECT_THAT(Refused(options, std::string(spec.key)), HasSubstr(" must be ")) << value;
    }
  }
  EXPECT_THAT(Refused(With({{"trigger", "true"}}), "trigger"), HasSubstr("must be true or false, not text"));
  EXPECT_THAT(Refused(With({{"filter", true}}), "filter"), HasSubstr("must be text, not a boolean"));
  EXPECT_THAT(Refused(With({{"poll_interval", "1 s"}}), "poll_interval"), HasSubstr("must be an interval, not text"));
}

TEST(TableOptionsTest, ProviderOrItsColumn) {
  json options = Without("provider");
  options["provider_column"] = "platform";
  EXPECT_EQ(Parsed(options).columns["provider"], "platform");
  EXPECT_THAT(Refused(With({{"provider_column", "platform"}}), "provider"), HasSubstr("\"provider_column\""));
  EXPECT_THAT(Refused(With({{"provider", ""}}), "provider"), HasSubstr("must not be empty"));
  EXPECT_THAT(Refused(With({{"provider", "a\nb"}}), "provider"), HasSubstr("control characters"));
}

TEST(TableOptionsTest, LabelOrItsColumn) {
  EXPECT_EQ(Parsed(With({{"label", "booking"}})).label, "booking");
  EXPECT_EQ(Parsed(With({{"label", ""}})).label, "");
  EXPECT_THAT(Refused(With({{"label", ""}, {"label_column", "l"}}), "label"), HasSubstr("\"label_column\""));
}

TEST(TableOptionsTest, ColumnsAreNamesOf1To63Bytes) {
  EXPECT_EQ(Parsed(With({{"scope_column", std::string(63, 'c')}})).columns["scope"], std::string(63, 'c'));
  EXPECT_EQ(Parsed(With({{"scope_column", "M\xc3\xa4 \t\";--"}})).columns["scope"], "M\xc3\xa4 \t\";--");
  for (const std::string& name : {std::string(), std::string(64, 'c'), std::string("a\0b", 3)}) {
    EXPECT_THAT(Refused(With({{"scope_column", name}}), "scope_column"), HasSubstr("must name a column"));
  }
}

TEST(TableOptionsTest, AWrittenColumnServesOnePurpose) {
  const auto& columns = TableColumnOptions();
  for (size_t second = 0; second < columns.size(); ++second) {
    for (size_t first = 0; first < second; ++first) {
      json options = Least();
      for (const size_t which : {first, second}) {
        options[std::string(columns[which].option)] = "same\nname";
        if (columns[which].word == "provider") options.erase("provider");
      }
      if (!columns[first].written && !columns[second].written) {
        Parsed(options);
        continue;
      }
      const std::string problem = Refused(options, std::string(columns[second].option));
      EXPECT_THAT(problem, HasSubstr("names column \"same?name\""));
      EXPECT_THAT(problem, HasSubstr("option \"" + std::string(columns[first].option) + "\" names too"));
    }
  }
  // Names are those of the catalog, where case matters.
  Parsed(With({{"scope_column", "Access_Token"}}));
}

TEST(TableOptionsTest, StatusValues) {
  const auto with = [](json values) { return With({{"status_column", "st"}, {"status_values", std::move(values)}}); };
  EXPECT_THAT(Parsed(with({{"error", "x"}})).status_values, ElementsAre(Pair("error", "x")));
  EXPECT_THAT(Refused(with(json::object()), "status_values"), HasSubstr("at least one"));
  const std::string unknown = Refused(with({{"fine", "secret text"}}), "status_values");
  EXPECT_THAT(unknown, HasSubstr("holds \"fine\""));
  EXPECT_THAT(unknown, HasSubstr("\"connected\", \"token_expired\", \"needs_reauth\", \"error\" or \"disconnected\""));
  EXPECT_THAT(unknown, Not(HasSubstr("secret")));
  EXPECT_THAT(Refused(with({{"error", 3}}), "status_values"), HasSubstr("text for \"error\", not a number"));
  EXPECT_THAT(Refused(with({{"error", ""}}), "status_values"), HasSubstr("empty text for \"error\""));
  EXPECT_THAT(Refused(with({{"error", "a\x01"}}), "status_values"), HasSubstr("control characters"));
  EXPECT_THAT(Refused(with({{"error", std::string(4097, 'x')}}), "status_values"), HasSubstr("4096 bytes"));
  const std::string same = Refused(with({{"error", "twice"}, {"needs_reauth", "twice"}}), "status_values");
  EXPECT_THAT(same, HasSubstr("same text for \"error\" and \"needs_reauth\""));
  EXPECT_THAT(same, Not(HasSubstr("twice")));
  EXPECT_THAT(Refused(With({{"status_values", {{"error", "x"}}}}), "status_values"),
              HasSubstr("needs option \"status_column\""));
}

TEST(TableOptionsTest, ResultValues) {
  const auto with = [](json values) { return With({{"result_column", "res"}, {"result_values", std::move(values)}}); };
  const TableOptions one = Parsed(with({{"failure", "bad"}}));
  EXPECT_EQ(one.result_values.success, "success");
  EXPECT_EQ(one.result_values.failure, "bad");
  EXPECT_THAT(Refused(with({{"error", "x"}}), "result_values"), HasSubstr("neither \"success\" nor \"failure\""));
  EXPECT_THAT(Refused(with({{"success", nullptr}}), "result_values"), HasSubstr("text for \"success\", not null"));
  EXPECT_THAT(Refused(with({{"success", ""}}), "result_values"), HasSubstr("empty text"));
  EXPECT_THAT(Refused(with({{"success", "x"}, {"failure", "x"}}), "result_values"), HasSubstr("same text"));
  EXPECT_THAT(Refused(with({{"success", "error"}}), "result_values"), HasSubstr("same text"));
  EXPECT_THAT(Refused(With({{"result_values", {{"success", "x"}}}}), "result_values"),
              HasSubstr("needs option \"result_column\""));
}

TEST(TableOptionsTest, AFilterIsNotEmpty) {
  for (const char* filter : {"", " ", "\n\t "}) {
    EXPECT_THAT(Refused(With({{"filter", filter}}), "filter"), HasSubstr("must not be empty"));
  }
  EXPECT_THAT(Refused(With({{"filter", std::string("a\0b", 3)}}), "filter"), HasSubstr("zero byte"));
  EXPECT_EQ(Parsed(With({{"filter", " active "}})).filter, " active ");
}

TEST(TableOptionsTest, CipherByName) {
  EXPECT_EQ(Parsed(With({{"cipher", "plain"}})).cipher, TableCipher::kPlain);
  EXPECT_EQ(Parsed(With({{"cipher", "native"}})).cipher, TableCipher::kNative);
  EXPECT_EQ(Parsed(With({{"cipher", "aes-256-gcm-hex"}, {"key", "app"}})).cipher, TableCipher::kAes256GcmHex);
  for (const char* word : {"", "Plain", "functions", "rot13", "plain "}) {
    EXPECT_THAT(Refused(With({{"cipher", word}}), "cipher"),
                HasSubstr("must be \"plain\", \"native\" or \"aes-256-gcm-hex\", or an object with \"decrypt\" and "
                          "\"encrypt\", not \"" +
                          std::string(word) + "\""));
  }
  EXPECT_THAT(Refused(With({{"cipher", true}}), "cipher"), HasSubstr("not a boolean"));
}

TEST(TableOptionsTest, CipherByFunctions) {
  const auto with = [](json cipher) { return With({{"cipher", std::move(cipher)}}); };
  const TableOptions options = Parsed(with({{"decrypt", "App.Open"}, {"encrypt", "\"App\".\"Seal it\""}}));
  EXPECT_EQ(options.cipher, TableCipher::kFunctions);
  EXPECT_EQ(options.decrypt, (QualifiedName{"app", "open"}));
  EXPECT_EQ(options.encrypt, (QualifiedName{"App", "Seal it"}));
  EXPECT_THAT(Refused(with({{"decrypt", "a.f"}}), "cipher"), HasSubstr("must hold \"encrypt\""));
  EXPECT_THAT(Refused(with({{"encrypt", "a.f"}}), "cipher"), HasSubstr("must hold \"decrypt\""));
  EXPECT_THAT(OptionsOf(Problems(with(json::object()).dump())), ElementsAre("cipher", "cipher"));
  EXPECT_THAT(Refused(with({{"decrypt", "a.f"}, {"encrypt", 1}}), "cipher"), HasSubstr("\"encrypt\", not a number"));
  for (const char* name : {"", "f", "a.b.f", "a.f(text)", "a.f; DROP TABLE x"}) {
    const std::string problem = Refused(with({{"decrypt", "a.f"}, {"encrypt", name}}), "cipher");
    EXPECT_THAT(problem, HasSubstr("for \"encrypt\", such as"));
    EXPECT_THAT(problem, Not(HasSubstr("DROP")));
  }
  EXPECT_THAT(Refused(with({{"decrypt", "a.f"}, {"encrypt", "a.g"}, {"hash", "a.h"}}), "cipher"),
              HasSubstr("holds \"hash\""));
}

TEST(TableOptionsTest, AKeyGoesWithItsCipherOnly) {
  EXPECT_EQ(Parsed(With({{"cipher", "aes-256-gcm-hex"}, {"key", "app.key_1"}})).key, "app.key_1");
  EXPECT_THAT(Refused(With({{"cipher", "aes-256-gcm-hex"}}), "key"), HasSubstr("is missing"));
  for (const json& cipher : {json("plain"), json("native"), json({{"decrypt", "a.f"}, {"encrypt", "a.g"}})}) {
    EXPECT_THAT(Refused(With({{"cipher", cipher}, {"key", "app"}}), "key"), HasSubstr("only"));
  }
  // A key in place of its name is not shown.
  const std::string key = std::string(64, 'f');
  for (const std::string& name : {std::string(), key, std::string("a/b"), std::string("a b")}) {
    const std::string problem = Refused(With({{"cipher", "aes-256-gcm-hex"}, {"key", name}}), "key");
    EXPECT_THAT(problem, HasSubstr("the name of a key"));
    EXPECT_THAT(problem, Not(HasSubstr("ffff")));
  }
  // With a cipher that is none, only that is wrong.
  Refused(With({{"cipher", "rot13"}, {"key", "app"}}), "cipher");
}

TEST(TableOptionsTest, IntervalsHaveBounds) {
  const int64_t ten_years = 3650 * kDay;
  EXPECT_EQ(Parsed(With({{"poll_interval", ten_years}})).poll_interval, ten_years);
  EXPECT_EQ(Parsed(With({{"poll_interval", kMinute}, {"trigger", true}})).poll_interval, kMinute);
  for (const int64_t wrong : {int64_t{-1}, int64_t{0}, kSecond - 1, ten_years + 1, INT64_MAX}) {
    EXPECT_THAT(Refused(With({{"poll_interval", wrong}}), "poll_interval"), HasSubstr("between 1 second"));
  }
  EXPECT_EQ(Parsed(With({{"refresh_margin", 1}})).refresh_margin, 1);
  for (const json& wrong : {json(0), json(-kDay), json(ten_years + 1), json(UINT64_MAX)}) {
    EXPECT_THAT(Refused(With({{"refresh_margin", wrong}}), "refresh_margin"), HasSubstr("must be positive"));
  }
}

TEST(TableOptionsTest, TimeZone) {
  EXPECT_EQ(Parsed(With({{"time_zone", "+02"}})).time_zone, "+02");
  EXPECT_THAT(Refused(With({{"time_zone", ""}}), "time_zone"), HasSubstr("must not be empty"));
  EXPECT_THAT(Refused(With({{"time_zone", "UTC\n"}}), "time_zone"), HasSubstr("control characters"));
}

TEST(TableOptionsTest, SpecificationsAndWordsAreDistinct) {
  std::set<std::string_view> keys, words;
  for (const OptionSpec& spec : TableOptionSpecs()) EXPECT_TRUE(keys.insert(spec.key).second) << spec.key;
  for (const TableColumnOption& column : TableColumnOptions()) {
    EXPECT_TRUE(words.insert(column.word).second) << column.word;
    EXPECT_EQ(keys.count(column.option), 1u);
  }
  EXPECT_EQ(keys.size(), 23u);
}

TEST(TableOptionsTest, CiphersHaveWords) {
  EXPECT_EQ(TableCipherWord(TableCipher::kPlain), "plain");
  EXPECT_EQ(TableCipherWord(TableCipher::kNative), "native");
  EXPECT_EQ(TableCipherWord(TableCipher::kAes256GcmHex), "aes-256-gcm-hex");
  EXPECT_EQ(TableCipherWord(TableCipher::kFunctions), "functions");
}

}  // namespace
}  // namespace token_refresh
