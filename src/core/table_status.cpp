#include "core/table_status.h"

#include <algorithm>

namespace token_refresh {

const std::vector<std::string_view>& StatusWords() {
  static const std::vector<std::string_view> words = {"connected", "token_expired", "needs_reauth", "error",
                                                      "disconnected"};
  return words;
}

std::string_view StatusFromTable(const StatusValues& values, std::string_view text) {
  const std::vector<std::string_view>& words = StatusWords();
  const auto found = std::find_if(words.begin(), words.end(),
                                  [&](std::string_view word) { return StatusForTable(values, word) == text; });
  return found == words.end() ? words.front() : *found;
}

std::optional<std::string_view> StatusForTable(const StatusValues& values, std::string_view word) {
  if (values.empty()) return word;
  const auto found = values.find(word);
  if (found == values.end()) return std::nullopt;
  return found->second;
}

}  // namespace token_refresh
