// Scopes of API tokens. A scope is a scope-token of RFC 6749 section 3.3. One that is granted covers
// exactly itself, but for two forms with a star at the end: "api:*" covers every scope that begins with "api:", and
// "*" covers every scope. In a scope that is asked for a star means nothing. Callable by anyone.
#pragma once

#include <string_view>

namespace token_refresh {

// Whether the text may be granted.
bool IsGrantableScope(std::string_view scope);

bool ScopeCovers(std::string_view granted, std::string_view required);

}  // namespace token_refresh
