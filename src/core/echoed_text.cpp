#include "core/echoed_text.h"

#include <algorithm>
#include <iterator>

#include "core/ascii.h"

namespace token_refresh {
namespace {

constexpr size_t kNone = static_cast<size_t>(-1);
constexpr size_t kLongestReference = 10;  // &#0000065;

// What stands at the beginning of a text. length 0: no escape; kNone: one that the end of the text may have cut.
struct Escape {
  size_t length = 0;
  char byte = 0;
};

constexpr Escape kCut = {kNone, 0};

// Two hexadecimal digits from at on; the escape ends behind them.
Escape ReadHex(std::string_view text, size_t at) {
  for (size_t i = at; i < at + 2; ++i) {
    if (i >= text.size()) return kCut;
    if (HexDigitValue(text[i]) < 0) return {};
  }
  return {at + 2, static_cast<char>(HexDigitValue(text[at]) << 4 | HexDigitValue(text[at + 1]))};
}

// RFC 8259 section 7.
Escape ReadBackslash(std::string_view text) {
  constexpr std::string_view kNames = "\"\\/bfnrt", kBytes = "\"\\/\b\f\n\r\t";
  if (text.size() < 2) return kCut;
  if (const size_t name = kNames.find(text[1]); name != std::string_view::npos) return {2, kBytes[name]};
  constexpr std::string_view kAscii = "\\u00";
  const std::string_view start = text.substr(0, kAscii.size());
  if (kAscii.starts_with(start)) {
    if (start.size() < kAscii.size()) return kCut;
    const Escape escape = ReadHex(text, kAscii.size());
    return escape.byte < 0 ? Escape{} : escape;
  }
  return {};
}

// Between "&#" and ";".
Escape ReadNumber(std::string_view digits, size_t length) {
  const bool hex = digits.starts_with('x') || digits.starts_with('X');
  if (hex) digits.remove_prefix(1);
  int value = 0;
  for (const char c : digits) {
    const int digit = hex || IsAsciiDigit(c) ? HexDigitValue(c) : -1;
    if (digit < 0) return {};
    value = std::min(value * (hex ? 16 : 10) + digit, 0x80);
  }
  if (digits.empty() || value > 0x7f) return {};
  return {length, static_cast<char>(value)};
}

Escape ReadReference(std::string_view text) {
  struct Name {
    std::string_view name;
    char byte;
  };
  constexpr Name kNames[] = {{"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"apos", '\''}};
  const auto goes_on = [](char c) { return IsAsciiAlphanumeric(c) || c == '#'; };
  const size_t end = std::find_if_not(text.begin() + 1, text.end(), goes_on) - text.begin();
  if (end > kLongestReference) return {};
  if (end == text.size()) return kCut;
  if (text[end] != ';') return {};
  const std::string_view name = text.substr(1, end - 1);
  if (name.starts_with('#')) return ReadNumber(name.substr(1), end + 1);
  const auto known = std::find_if(std::begin(kNames), std::end(kNames), [&](const Name& n) { return n.name == name; });
  return known == std::end(kNames) ? Escape{} : Escape{end + 1, known->byte};
}

Escape ReadEscape(std::string_view text, Escapes escapes) {
  const auto wanted = [escapes](Escapes kind) { return escapes == Escapes::kAll || escapes == kind; };
  switch (text.front()) {
    case '%':
      return wanted(Escapes::kPercent) ? ReadHex(text, 1) : Escape{};
    case '\\':
      return wanted(Escapes::kBackslash) ? ReadBackslash(text) : Escape{};
    case '&':
      return wanted(Escapes::kReference) ? ReadReference(text) : Escape{};
    default:
      return {};
  }
}

}  // namespace

bool MixesEscapes(std::string_view text) {
  const auto has = [text](char c) { return text.find(c) != std::string_view::npos; };
  return has('%') + has('\\') + has('&') > 1;
}

EchoedText::EchoedText(std::string_view text, Escapes escapes, PlusSign plus, bool open_end)
    : open_end_(open_end), byte_at_(text.size() + 1, kNone) {
  bytes_.reserve(text.size());
  begins_.reserve(text.size() + 1);
  for (size_t here = 0; here < text.size();) {
    Escape escape = ReadEscape(text.substr(here), escapes);
    byte_at_[here] = bytes_.size();
    if (escape.length == kNone && open_end) break;
    if (escape.length == kNone) escape = {};
    begins_.push_back(here);
    const char itself = text[here] == '+' && plus == PlusSign::kBlank ? ' ' : text[here];
    bytes_ += escape.length > 0 ? escape.byte : itself;
    here += std::max<size_t>(escape.length, 1);
  }
  begins_.push_back(text.size());
}

size_t EchoedText::SecretEnd(std::string_view secret, size_t place) const {
  const size_t first = byte_at_[place];
  if (first == kNone || secret.empty()) return place;
  const std::string_view rest = std::string_view(bytes_).substr(first);
  if (rest.starts_with(secret)) return begins_[first + secret.size()];
  return open_end_ && secret.starts_with(rest) ? begins_.back() : place;
}

}  // namespace token_refresh
