#include "core/json_escapes.h"

#include "core/ascii.h"

namespace token_refresh {

namespace {

constexpr size_t kEscapeChars = 6;

// Of the \uXXXX that the text begins with; -1: it does not.
int CodeUnit(std::string_view text) {
  if (text.size() < kEscapeChars || text[0] != '\\' || text[1] != 'u') return -1;
  int unit = 0;
  for (const char digit : text.substr(2, 4)) {
    const int value = HexDigitValue(digit);
    if (value < 0) return -1;
    unit = unit * 16 + value;
  }
  return unit;
}

bool IsFirstHalf(int unit) { return unit >= 0xD800 && unit < 0xDC00; }
bool IsSecondHalf(int unit) { return unit >= 0xDC00 && unit < 0xE000; }

void AppendUtf8(int point, SecretString* out) {
  const auto continuation = [point](int shift) { return static_cast<char>(0x80 | ((point >> shift) & 0x3F)); };
  if (point < 0x800) {
    *out += static_cast<char>(0xC0 | (point >> 6));
  } else if (point < 0x10000) {
    *out += static_cast<char>(0xE0 | (point >> 12));
    *out += continuation(6);
  } else {
    *out += static_cast<char>(0xF0 | (point >> 18));
    *out += continuation(12);
    *out += continuation(6);
  }
  *out += continuation(0);
}

}  // namespace

SecretString ResolveUnicodeEscapes(std::string_view json) {
  SecretString out;
  out.reserve(json.size());
  while (!json.empty()) {
    size_t taken = json[0] == '\\' ? 2 : 1;
    int point = CodeUnit(json);
    if (point >= 0) taken = kEscapeChars;
    const int second = IsFirstHalf(point) ? CodeUnit(json.substr(kEscapeChars)) : -1;
    if (IsSecondHalf(second)) {
      point = 0x10000 + ((point - 0xD800) << 10) + (second - 0xDC00);
      taken = 2 * kEscapeChars;
    }
    taken = taken < json.size() ? taken : json.size();
    if (point >= 0x80) {
      AppendUtf8(point, &out);
    } else {
      out.append(json.substr(0, taken));
    }
    json.remove_prefix(taken);
  }
  return out;
}

}  // namespace token_refresh
