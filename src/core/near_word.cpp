#include "core/near_word.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <string>

#include "core/ascii.h"

namespace token_refresh {
namespace {

constexpr size_t kFurthest = 2;

// Levenshtein's distance by rows: row[j] is that between what has been read of
// from and the first j characters of to.
size_t EditDistance(std::string_view from, std::string_view to) {
  std::vector<size_t> row(to.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= from.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= to.size(); ++j) {
      const size_t replaced = diagonal + (from[i - 1] == to[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[to.size()];
}

}  // namespace

std::optional<std::string_view> NearWord(std::string_view text, const std::vector<std::string_view>& words) {
  std::optional<std::string_view> nearest;
  size_t least = kFurthest + 1;
  for (const std::string_view word : words) {
    // The lengths alone rule most words out, and bound what a long text costs.
    if (text.size() > word.size() + kFurthest || word.size() > text.size() + kFurthest) continue;
    const size_t distance = EditDistance(AsciiLower(text), AsciiLower(word));
    if (distance >= least) continue;
    least = distance;
    nearest = word;
  }
  return nearest;
}

}  // namespace token_refresh
