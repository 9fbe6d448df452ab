// Reads the single values of table options, collecting problems instead of
// stopping at the first. Private to ParseTableOptions.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/option_values.h"
#include "core/secret_json.h"
#include "core/table_options.h"

namespace token_refresh {

class TableOptionReader {
 public:
  explicit TableOptionReader(TableOptions& options) : options_(options) {}

  // problem completes the sentence that begins with the option.
  void Report(std::string_view key, std::string_view problem);
  std::vector<OptionProblem> TakeProblems() && { return std::move(problems_); }

  // Reports when it has not.
  bool HasType(std::string_view key, OptionType type, const SecretJson& value);

  void ReadColumn(const TableColumnOption& column, const SecretJson& value);

  // The following expect a value of the option's type; ReadCipher any value.
  template <auto Member>
  void ReadName(std::string_view key, const SecretJson& value) {
    ReadTextInto(key, value, false, options_.*Member);
  }
  template <auto Member>
  void ReadAnyText(std::string_view key, const SecretJson& value) {
    ReadTextInto(key, value, true, options_.*Member);
  }
  void ReadStatusValues(std::string_view key, const SecretJson& value);
  void ReadResultValues(std::string_view key, const SecretJson& value);
  void ReadFilter(std::string_view key, const SecretJson& value);
  void ReadCipher(std::string_view key, const SecretJson& value);
  void ReadKeyName(std::string_view key, const SecretJson& value);
  void ReadTrigger(std::string_view key, const SecretJson& value);
  void ReadPollInterval(std::string_view key, const SecretJson& value);
  void ReadRefreshMargin(std::string_view key, const SecretJson& value);

 private:
  bool Accept(std::string_view key, const Status& status);
  void ReadTextInto(std::string_view key, const SecretJson& value, bool may_be_empty, std::string& out);
  // The application's text for one of the words; nothing, and reported, when it is unusable.
  std::optional<std::string> ReadMappedText(std::string_view key, std::string_view word, const SecretJson& value);
  void ReadFunction(std::string_view key, const SecretJson& cipher, std::string_view member, QualifiedName& out);

  TableOptions& options_;
  std::vector<OptionProblem> problems_;
};

}  // namespace token_refresh
