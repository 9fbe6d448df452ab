// Timestamps as text, without a time library's leniency. For the parsers of the core.
#pragma once

#include <optional>
#include <string_view>

#include "core/clock.h"

namespace token_refresh {

// ISO 8601 as RFC 3339 and PostgreSQL write it, the zone required:
// YYYY-MM-DD, T or a space, HH:MM:SS, an optional fraction (truncated to
// microseconds), Z or +HH or +HH:MM (either sign). Nothing for all else.
std::optional<Micros> ParseIsoTime(std::string_view text);

}  // namespace token_refresh
