// Reads single option values out of JSON, with messages that name the option and
// never quote what may be secret. Used by ParseProviderOptions.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/clock.h"
#include "core/provider.h"
#include "core/result.h"
#include "core/secret_json.h"

namespace token_refresh {

// `option "key" problem`, kInvalidArgument.
Error OptionError(std::string_view key, std::string_view problem, std::string hint = "");

// `"a", "b" or "c"`.
std::string ListWords(const std::vector<std::string_view>& words);

// The text between quotation marks, for words of a closed list only: cut to 64
// characters, with ? for what is not printable.
std::string QuoteWord(std::string_view text);

Status CheckOptionType(std::string_view key, OptionType type, const SecretJson& value);

// The following expect a value that has passed CheckOptionType.

// Text of at most 4096 bytes without control characters.
Status ReadText(std::string_view key, const SecretJson& value, std::string& out);
Status ReadUrl(std::string_view key, const SecretJson& value, std::string& out);
Status ReadAbsolutePath(std::string_view key, const SecretJson& value, std::string& out);
// The index of the word in words.
Result<size_t> ReadWord(std::string_view key, const SecretJson& value, const std::vector<std::string_view>& words);
Result<int64_t> ReadInteger(std::string_view key, const SecretJson& value, int64_t least, int64_t most);

enum class IntervalBound {
  kTimeout,         // positive, at most 10 minutes
  kPositive,        // positive, at most 10 years
  kZeroOrPositive,  // at most 10 years
};
Result<Micros> ReadInterval(std::string_view key, const SecretJson& value, IntervalBound bound);

Status ReadRequestParams(std::string_view key, const SecretJson& value,
                         std::map<std::string, std::optional<std::string>>& out);
Status ReadRequestHeaders(std::string_view key, const SecretJson& value, std::map<std::string, std::string>& out);
// An object of clean texts, with a name each.
Status ReadTextMap(std::string_view key, const SecretJson& value, std::map<std::string, std::string>& out);
Status ReadErrorRules(std::string_view key, const SecretJson& value, std::vector<ErrorRule>& out);

}  // namespace token_refresh
