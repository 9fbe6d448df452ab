// JSON on which a decision about somebody's identity rests: read so that no two readers can see
// different things in it. For JWTs and keys; what providers merely answer is read by tolerant_json.h.
#pragma once

#include <optional>
#include <string_view>

#include "core/secret_json.h"

namespace token_refresh {

// An object of RFC 8259 and nothing around it but white space. Nothing when it is something else, when
// two members of one object have the same name, when it is nested deeper than kMaxJsonDepth, and for what
// the server's jsonb cannot hold: U+0000 in a text, numbers beyond a double, with an exponent beyond 400 or
// of more than 512 characters.
// The caller has bounded the size.
std::optional<SecretJson> ParseStrictObject(std::string_view json);

}  // namespace token_refresh
