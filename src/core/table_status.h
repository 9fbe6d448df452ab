// The words of a credential's status, and what an attached table calls them.
// Used by those who read and write the status column of such a table.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace token_refresh {

// "connected", "token_expired", "needs_reauth", "error", "disconnected"
const std::vector<std::string_view>& StatusWords();

// From our word to the application's text, which no two words share. Empty: the
// application uses our words.
using StatusValues = std::map<std::string, std::string, std::less<>>;

// Our word for the application's text, alive for ever. A text that stands for no
// word is "connected": it is of a state that only the application knows, and must
// not keep a token from being refreshed.
std::string_view StatusFromTable(const StatusValues& values, std::string_view text);

// The application's text for our word. Nothing: the application has no text for
// it, and its column is to be left as it is. Points into values, or is word itself.
std::optional<std::string_view> StatusForTable(const StatusValues& values, std::string_view word);

}  // namespace token_refresh
