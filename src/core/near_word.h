// The word that was probably meant, for messages about an unknown one.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

namespace token_refresh {

// The nearest of the words that can be made from text by at most two insertions,
// deletions or replacements of a character, letters of either case being equal;
// of equally near ones the first. Nothing when none is that near.
std::optional<std::string_view> NearWord(std::string_view text, const std::vector<std::string_view>& words);

}  // namespace token_refresh
