// Bytes from hexadecimal text, the reverse of HexEncode. For those files of
// src/core that read what applications wrote.
#pragma once

#include <cstddef>
#include <string_view>

#include "core/ascii.h"

namespace token_refresh {

// Strict: false when the number of digits is odd or there is anything but
// digits of either case. Writes exactly text.size() / 2 bytes to out; on failure
// some of them may have been written, which the caller wipes.
constexpr bool HexDecodeInto(std::string_view text, char* out) {
  if (text.size() % 2 != 0) return false;
  for (size_t at = 0; at < text.size(); at += 2) {
    const int high = HexDigitValue(text[at]);
    const int low = HexDigitValue(text[at + 1]);
    if (high < 0 || low < 0) return false;
    *out++ = static_cast<char>(high << 4 | low);
  }
  return true;
}

}  // namespace token_refresh
