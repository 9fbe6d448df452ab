#include "core/table_options.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "core/near_word.h"
#include "core/option_values.h"
#include "core/secret_json.h"
#include "core/table_option_reader.h"

namespace token_refresh {
namespace {

constexpr size_t kMaxOptionsBytes = size_t{64} * 1024;

using Setter = void (TableOptionReader::*)(std::string_view key, const SecretJson& value);

// One option that names no column; adding another is adding a row to OptionTable().
struct OptionRow {
  OptionSpec spec;
  Setter set;
};

const std::vector<OptionRow>& OptionTable() {
  using O = TableOptions;
  using R = TableOptionReader;
  using enum OptionType;
  static const std::vector<OptionRow> table = {
      {{"provider", kText}, &R::ReadName<&O::provider>},
      {{"label", kText}, &R::ReadAnyText<&O::label>},
      {{"status_values", kObject}, &R::ReadStatusValues},
      {{"result_values", kObject}, &R::ReadResultValues},
      {{"filter", kText}, &R::ReadFilter},
      {{"cipher", kText}, &R::ReadCipher},
      {{"key", kText}, &R::ReadKeyName},
      {{"trigger", kBoolean}, &R::ReadTrigger},
      {{"poll_interval", kInterval}, &R::ReadPollInterval},
      {{"refresh_margin", kInterval}, &R::ReadRefreshMargin},
      {{"time_zone", kText}, &R::ReadName<&O::time_zone>},
  };
  return table;
}

const OptionRow* FindOption(std::string_view key) {
  const auto& table = OptionTable();
  const auto found =
      std::find_if(table.begin(), table.end(), [&](const OptionRow& row) { return row.spec.key == key; });
  return found == table.end() ? nullptr : &*found;
}

const TableColumnOption* FindColumnOption(std::string_view key) {
  const auto& table = TableColumnOptions();
  const auto found =
      std::find_if(table.begin(), table.end(), [&](const TableColumnOption& column) { return column.option == key; });
  return found == table.end() ? nullptr : &*found;
}

// The option that was probably meant: a misspelt one, or one without its "_column".
std::optional<std::string_view> Suggestion(std::string_view key) {
  std::vector<std::string_view> keys;
  for (const OptionSpec& spec : TableOptionSpecs()) keys.push_back(spec.key);
  if (const TableColumnOption* column = FindColumnOption(std::string(key) + "_column"); column != nullptr) {
    return column->option;
  }
  return NearWord(key, keys);
}

void ReportUnknown(TableOptionReader& reader, std::string_view key, bool first) {
  std::string problem = "is unknown";
  if (const std::optional<std::string_view> meant = Suggestion(key); meant.has_value()) {
    problem.append("; did you mean \"").append(*meant).append("\"?");
  }
  if (first) {
    problem.append(problem.back() == '?' ? " The options are " : "; the options are ");
    std::string_view separator;
    for (const OptionSpec& spec : TableOptionSpecs()) {
      problem.append(std::exchange(separator, ", ")).append(spec.key);
    }
  }
  reader.Report(key, problem);
}

// In the order of the specifications, so that the problems come in an order that does not depend on spelling.
void ReadKnown(TableOptionReader& reader, const SecretJson& object) {
  for (const TableColumnOption& column : TableColumnOptions()) {
    const SecretJson* value = FindMember(object, column.option);
    if (value != nullptr) reader.ReadColumn(column, *value);
    if (value == nullptr && column.required) reader.Report(column.option, "is missing");
  }
  for (const OptionRow& row : OptionTable()) {
    const SecretJson* value = FindMember(object, row.spec.key);
    // What a cipher may be is said by its own reader.
    if (value != nullptr && (row.spec.key == "cipher" || reader.HasType(row.spec.key, row.spec.type, *value))) {
      (reader.*row.set)(row.spec.key, *value);
    }
  }
}

void ReportUnknownKeys(TableOptionReader& reader, const SecretJson& object) {
  bool first = true;
  for (const auto& [key, value] : *object.get_ptr<const SecretJson::object_t*>()) {
    if (FindColumnOption(key) != nullptr || FindOption(key) != nullptr) continue;
    ReportUnknown(reader, key, std::exchange(first, false));
  }
}

void CheckTogether(TableOptionReader& reader, const SecretJson& object, std::string_view key, std::string_view other) {
  if (FindMember(object, key) == nullptr || FindMember(object, other) == nullptr) return;
  reader.Report(key, "must not be given together with option \"" + std::string(other) + "\"");
}

void CheckNeeds(TableOptionReader& reader, const SecretJson& object, std::string_view key, std::string_view other) {
  if (FindMember(object, key) == nullptr || FindMember(object, other) != nullptr) return;
  reader.Report(key, "needs option \"" + std::string(other) + "\"");
}

void CheckCipherAndKey(TableOptionReader& reader, const SecretJson& object, const std::optional<TableCipher>& cipher) {
  const bool has_key = FindMember(object, "key") != nullptr;
  if (FindMember(object, "cipher") == nullptr) {
    reader.Report("cipher", "is missing; there is no default, because a guess could store tokens in plain text");
  }
  if (!cipher.has_value()) return;
  const bool takes_key = *cipher == TableCipher::kAes256GcmHex;
  if (takes_key && !has_key) reader.Report("key", "is missing; cipher \"aes-256-gcm-hex\" needs it");
  if (!takes_key && has_key) reader.Report("key", "is allowed with cipher \"aes-256-gcm-hex\" only");
}

void CheckCombinations(TableOptionReader& reader, const SecretJson& object, const TableOptions& options) {
  if (FindMember(object, "provider") == nullptr && FindMember(object, "provider_column") == nullptr) {
    reader.Report("provider", "is missing; give it, or option \"provider_column\"");
  }
  CheckTogether(reader, object, "provider", "provider_column");
  CheckTogether(reader, object, "label", "label_column");
  CheckNeeds(reader, object, "status_values", "status_column");
  CheckNeeds(reader, object, "result_values", "result_column");
  CheckCipherAndKey(reader, object, options.cipher);
}

// An UPDATE can set a column only once, and what is read for one purpose must not be overwritten for another.
void CheckColumnsDiffer(TableOptionReader& reader, const TableOptions& options) {
  const std::vector<TableColumnOption>& table = TableColumnOptions();
  for (auto column = table.begin(); column != table.end(); ++column) {
    const auto name = options.columns.find(std::string(column->word));
    if (name == options.columns.end()) continue;
    const auto earlier = std::find_if(table.begin(), column, [&](const TableColumnOption& other) {
      const auto found = options.columns.find(std::string(other.word));
      return (column->written || other.written) && found != options.columns.end() && found->second == name->second;
    });
    if (earlier == column) continue;
    reader.Report(column->option, "names column " + QuoteWord(name->second) + ", which option \"" +
                                      std::string(earlier->option) + "\" names too");
  }
}

}  // namespace

std::string_view TableCipherWord(TableCipher cipher) {
  switch (cipher) {
    case TableCipher::kPlain:
      return "plain";
    case TableCipher::kNative:
      return "native";
    case TableCipher::kAes256GcmHex:
      return "aes-256-gcm-hex";
    case TableCipher::kFunctions:
      break;
  }
  return "functions";
}

const std::vector<TableColumnOption>& TableColumnOptions() {
  static const std::vector<TableColumnOption> table = {
      {"provider_column", "provider", false, false},
      {"subject_column", "subject", false, false},
      {"label_column", "label", false, false},
      {"access_token_column", "access_token", true, true},
      {"refresh_token_column", "refresh_token", true, true},
      {"expires_at_column", "expires_at", true, true},
      {"scope_column", "scope", false, true},
      {"status_column", "status", false, true},
      {"error_column", "last_error", false, true},
      {"result_column", "result", false, true},
      {"refreshed_at_column", "refreshed_at", false, true},
      {"updated_at_column", "updated_at", false, true},
  };
  return table;
}

const std::vector<OptionSpec>& TableOptionSpecs() {
  static const std::vector<OptionSpec> specs = [] {
    std::vector<OptionSpec> list;
    for (const TableColumnOption& column : TableColumnOptions()) list.push_back({column.option, OptionType::kText});
    for (const OptionRow& row : OptionTable()) list.push_back(row.spec);
    return list;
  }();
  return specs;
}

std::vector<OptionProblem> ParseTableOptions(std::string_view json, TableOptions& options) {
  options = TableOptions();
  const auto whole = [](std::string problem) { return std::vector<OptionProblem>{{"", std::move(problem)}}; };
  if (json.size() > kMaxOptionsBytes) return whole("table options must be at most 64 KiB long");
  if (IsNestedTooDeep(json)) return whole("table options must be nested at most 32 levels deep");
  const std::optional<SecretJson> object = ParseSecretJson(json);
  if (!object.has_value() || !object->is_object()) return whole("table options must be a JSON object");

  TableOptionReader reader(options);
  ReportUnknownKeys(reader, *object);
  ReadKnown(reader, *object);
  CheckCombinations(reader, *object, options);
  CheckColumnsDiffer(reader, options);
  return std::move(reader).TakeProblems();
}

}  // namespace token_refresh
