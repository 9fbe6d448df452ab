#include "core/table_option_reader.h"

#include <algorithm>
#include <optional>

#include "core/ascii.h"
#include "core/key_ring.h"
#include "core/utf8.h"

namespace token_refresh {
namespace {

// Sweeping a table more often would keep the refresher busy with nothing else.
constexpr Micros kLeastPollInterval = kSecond;
constexpr size_t kMaxMappedText = 4096;

std::string_view Text(const SecretJson& value) { return TextOf(value).value_or(std::string_view()); }

std::string Quoted(std::string_view word) { return "\"" + std::string(word) + "\""; }

const SecretJson::object_t& MembersOf(const SecretJson& value) { return *value.get_ptr<const SecretJson::object_t*>(); }

}  // namespace

void TableOptionReader::Report(std::string_view key, std::string_view problem) {
  std::string printable = QuoteWord(key);
  printable = printable.substr(1, printable.size() - 2);
  std::string sentence = OptionError(printable, problem).message;
  problems_.push_back({std::move(printable), std::move(sentence)});
}

bool TableOptionReader::Accept(std::string_view key, const Status& status) {
  if (!status) problems_.push_back({std::string(key), status.error().message});
  return status.ok();
}

bool TableOptionReader::HasType(std::string_view key, OptionType type, const SecretJson& value) {
  return Accept(key, CheckOptionType(key, type, value));
}

void TableOptionReader::ReadColumn(const TableColumnOption& column, const SecretJson& value) {
  if (!HasType(column.option, OptionType::kText, value)) return;
  const std::string_view name = Text(value);
  if (name.empty() || name.size() > kMaxIdentifierBytes) {
    Report(column.option, "must name a column, in 1 to 63 bytes");
  } else if (!IsUtf8(name) || name.find('\0') != std::string_view::npos) {
    Report(column.option, "must name a column, without a zero byte");
  } else {
    options_.columns[std::string(column.word)] = name;
  }
}

void TableOptionReader::ReadTextInto(std::string_view key, const SecretJson& value, bool may_be_empty,
                                     std::string& out) {
  if (Text(value).empty() && !may_be_empty) {
    Report(key, "must not be empty");
  } else {
    Accept(key, ReadText(key, value, out));
  }
}

std::optional<std::string> TableOptionReader::ReadMappedText(std::string_view key, std::string_view word,
                                                             const SecretJson& value) {
  const std::optional<std::string_view> text = TextOf(value);
  if (!text.has_value()) {
    Report(key, "must hold text for " + Quoted(word) + ", not " + std::string(JsonTypeName(value)));
  } else if (text->empty()) {
    Report(key, "must not hold an empty text for " + Quoted(word));
  } else if (text->size() > kMaxMappedText || !IsCleanText(*text)) {
    Report(key, "must hold at most 4096 bytes without control characters for " + Quoted(word));
  } else {
    return std::string(*text);
  }
  return std::nullopt;
}

void TableOptionReader::ReadStatusValues(std::string_view key, const SecretJson& value) {
  const std::vector<std::string_view>& words = StatusWords();
  const SecretJson::object_t& members = MembersOf(value);
  if (members.empty()) Report(key, "must hold at least one of " + ListWords(words));
  for (const auto& [word, text] : members) {
    if (std::find(words.begin(), words.end(), word) == words.end()) {
      Report(key, "holds " + QuoteWord(word) + ", which is none of " + ListWords(words));
      continue;
    }
    std::optional<std::string> mapped = ReadMappedText(key, word, text);
    if (!mapped.has_value()) continue;
    const auto same = std::find_if(options_.status_values.begin(), options_.status_values.end(),
                                   [&](const auto& earlier) { return earlier.second == *mapped; });
    if (same != options_.status_values.end()) {
      Report(key, "holds the same text for " + Quoted(same->first) + " and " + Quoted(word));
      continue;
    }
    options_.status_values[std::string(word)] = *std::move(mapped);
  }
}

void TableOptionReader::ReadResultValues(std::string_view key, const SecretJson& value) {
  ResultValues& values = options_.result_values;
  for (const auto& [word, text] : MembersOf(value)) {
    if (word != "success" && word != "failure") {
      Report(key, "holds " + QuoteWord(word) + ", which is neither \"success\" nor \"failure\"");
      continue;
    }
    std::optional<std::string> mapped = ReadMappedText(key, word, text);
    if (mapped.has_value()) (word == "success" ? values.success : values.failure) = *std::move(mapped);
  }
  if (values.success == values.failure) Report(key, "holds the same text for \"success\" and \"failure\"");
}

void TableOptionReader::ReadFilter(std::string_view key, const SecretJson& value) {
  const std::string_view filter = Text(value);
  // Control characters are fine here: a condition may have lines.
  if (TrimAsciiSpace(filter).empty()) {
    Report(key, "must not be empty; leave it out to serve every row");
  } else if (!IsUtf8(filter) || filter.find('\0') != std::string_view::npos) {
    Report(key, "must not hold a zero byte");
  } else {
    options_.filter = filter;
  }
}

void TableOptionReader::ReadFunction(std::string_view key, const SecretJson& cipher, std::string_view member,
                                     QualifiedName& out) {
  const SecretJson* value = FindMember(cipher, member);
  if (value == nullptr) return Report(key, "must hold " + Quoted(member) + ", the name of a function");
  const std::optional<std::string_view> text = TextOf(*value);
  if (!text.has_value()) {
    return Report(key, "must hold text for " + Quoted(member) + ", not " + std::string(JsonTypeName(*value)));
  }
  std::optional<QualifiedName> name = ParseQualifiedName(*text);
  if (!name.has_value()) {
    return Report(key, "must hold a function's name with its schema, and without arguments, for " + Quoted(member) +
                           ", such as \"schema.function\"");
  }
  out = *std::move(name);
}

void TableOptionReader::ReadCipher(std::string_view key, const SecretJson& value) {
  constexpr TableCipher kNamed[] = {TableCipher::kPlain, TableCipher::kNative, TableCipher::kAes256GcmHex};
  std::vector<std::string_view> words;
  for (const TableCipher cipher : kNamed) words.push_back(TableCipherWord(cipher));
  if (value.is_object()) {
    options_.cipher = TableCipher::kFunctions;
    ReadFunction(key, value, "decrypt", options_.decrypt);
    ReadFunction(key, value, "encrypt", options_.encrypt);
    for (const auto& [member, ignored] : MembersOf(value)) {
      if (member == "decrypt" || member == "encrypt") continue;
      Report(key, "holds " + QuoteWord(member) + ", which is neither \"decrypt\" nor \"encrypt\"");
    }
    return;
  }
  const auto found = std::find(words.begin(), words.end(), Text(value));
  if (value.is_string() && found != words.end()) {
    options_.cipher = kNamed[found - words.begin()];
    return;
  }
  const std::string given = value.is_string() ? QuoteWord(Text(value)) : std::string(JsonTypeName(value));
  Report(key, "must be " + ListWords(words) + ", or an object with \"decrypt\" and \"encrypt\", not " + given);
}

void TableOptionReader::ReadKeyName(std::string_view key, const SecretJson& value) {
  if (!IsKeyName(Text(value))) {
    Report(key, "must be the name of a key in the key ring, 1 to 63 of the characters A-Z a-z 0-9 _ . -");
  } else {
    options_.key = Text(value);
  }
}

void TableOptionReader::ReadTrigger(std::string_view, const SecretJson& value) {
  options_.trigger = *value.get_ptr<const bool*>();
}

void TableOptionReader::ReadPollInterval(std::string_view key, const SecretJson& value) {
  const Result<Micros> interval = ReadInterval(key, value, IntervalBound::kPositive);
  if (interval && *interval >= kLeastPollInterval) {
    options_.poll_interval = *interval;
  } else {
    Report(key, "must be between 1 second and 10 years");
  }
}

void TableOptionReader::ReadRefreshMargin(std::string_view key, const SecretJson& value) {
  const Result<Micros> interval = ReadInterval(key, value, IntervalBound::kPositive);
  if (interval) options_.refresh_margin = *interval;
  if (!interval) Accept(key, interval.error());
}

}  // namespace token_refresh
