// Validity of foreign UTF-8 (RFC 3629). For the parsers of the core.
#pragma once

#include <cstddef>
#include <string_view>

namespace token_refresh {

// Bytes of the well-formed character that text begins with; 0 when there is none
// (empty text, a stray or missing continuation byte, an overlong form, a surrogate).
size_t Utf8CharLength(std::string_view text);

bool IsUtf8(std::string_view text);

// Not one control character (C0, DEL, C1), valid UTF-8, and no U+FFFD, which only
// ever stands for bytes that were lost.
bool IsCleanText(std::string_view text);

}  // namespace token_refresh
