#include "core/utf8.h"

#include <algorithm>
#include <cstdint>

#include "core/ascii.h"

namespace token_refresh {
namespace {

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

uint8_t ByteAt(std::string_view text, size_t index) { return static_cast<uint8_t>(text[index]); }

bool IsContinuation(uint8_t byte) { return (byte & 0xC0) == 0x80; }

bool IsControl(std::string_view character) {
  const uint8_t first = ByteAt(character, 0);
  if (character.size() == 1) return !IsAsciiPrintable(character[0]);
  return first == 0xC2 && ByteAt(character, 1) < 0xA0;  // U+0080 to U+009F
}

}  // namespace

size_t Utf8CharLength(std::string_view text) {
  if (text.empty()) return 0;
  const uint8_t first = ByteAt(text, 0);
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return 0;
  const size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if (!IsContinuation(ByteAt(text, i))) return 0;
  }
  const uint8_t second = ByteAt(text, 1);
  if (first == 0xE0 && second < 0xA0) return 0;   // overlong
  if (first == 0xED && second >= 0xA0) return 0;  // surrogate
  if (first == 0xF0 && second < 0x90) return 0;   // overlong
  if (first == 0xF4 && second >= 0x90) return 0;  // beyond U+10FFFF
  return length;
}

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = Utf8CharLength(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

bool IsCleanText(std::string_view text) {
  // Nearly every text is plain ASCII, which needs no look at characters.
  text.remove_prefix(std::find_if_not(text.begin(), text.end(), IsAsciiPrintable) - text.begin());
  while (!text.empty()) {
    const size_t length = Utf8CharLength(text);
    if (length == 0) return false;
    const std::string_view character = text.substr(0, length);
    if (IsControl(character) || character == kReplacementCharacter) return false;
    text.remove_prefix(length);
  }
  return true;
}

}  // namespace token_refresh
