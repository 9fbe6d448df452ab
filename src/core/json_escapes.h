// The escapes of JSON, for a reader that cannot resolve all of them. Callable by anyone.
#pragma once

#include <string_view>

#include "core/secret_json.h"

namespace token_refresh {

// The same document with every \uXXXX beyond ASCII written as UTF-8, and nothing else changed: numbers stay as they are
// written. json: what ParseStrictObject has read, or any other JSON without half a surrogate.
SecretString ResolveUnicodeEscapes(std::string_view json);

}  // namespace token_refresh
