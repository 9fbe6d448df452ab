#include "core/api_scope.h"

#include <algorithm>

namespace token_refresh {
namespace {

constexpr size_t kMaxScopeChars = 256;

bool IsScopeChar(char c) { return c > 0x20 && c < 0x7f && c != '"' && c != '\\'; }

}  // namespace

bool IsGrantableScope(std::string_view scope) {
  if (scope.empty() || scope.size() > kMaxScopeChars || !std::all_of(scope.begin(), scope.end(), IsScopeChar))
    return false;
  const size_t star = scope.find('*');
  const bool all = scope == "*";
  const bool family = star == scope.size() - 1 && scope.size() > 2 && scope[star - 1] == ':';
  return star == std::string_view::npos || all || family;
}

bool ScopeCovers(std::string_view granted, std::string_view required) {
  if (granted == "*" || granted == required) return true;
  if (!granted.ends_with(":*")) return false;
  granted.remove_suffix(1);
  return required.size() > granted.size() && required.starts_with(granted);
}

}  // namespace token_refresh
