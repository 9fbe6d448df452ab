#include "core/qualified_name.h"

#include <cstddef>
#include <utility>

#include "core/ascii.h"
#include "core/utf8.h"

namespace token_refresh {
namespace {

bool IsBeyondAscii(char c) { return static_cast<unsigned char>(c) >= 0x80; }
bool IsStart(char c) { return IsAsciiAlpha(c) || c == '_' || IsBeyondAscii(c); }
bool IsPart(char c) { return IsStart(c) || IsAsciiDigit(c) || c == '$'; }

// Takes the rest of a quoted identifier and its closing mark off the front of text.
std::optional<std::string> TakeQuoted(std::string_view& text) {
  std::string name;
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '"') {
      if (at + 1 == text.size() || text[at + 1] != '"') {
        text.remove_prefix(at + 1);
        return name;
      }
      ++at;
    }
    name += text[at];
  }
  return std::nullopt;
}

std::optional<std::string> TakePlain(std::string_view& text) {
  if (text.empty() || !IsStart(text.front())) return std::nullopt;
  size_t size = 1;
  while (size < text.size() && IsPart(text[size])) ++size;
  std::string name = AsciiLower(text.substr(0, size));
  text.remove_prefix(size);
  return name;
}

std::optional<std::string> TakeIdentifier(std::string_view& text) {
  std::optional<std::string> name;
  if (text.starts_with('"')) {
    text.remove_prefix(1);
    name = TakeQuoted(text);
  } else {
    name = TakePlain(text);
  }
  if (!name.has_value() || name->empty() || name->size() > kMaxIdentifierBytes) return std::nullopt;
  return name;
}

}  // namespace

std::optional<QualifiedName> ParseQualifiedName(std::string_view text) {
  if (!IsUtf8(text) || text.find('\0') != std::string_view::npos) return std::nullopt;
  std::optional<std::string> schema = TakeIdentifier(text);
  if (!schema.has_value() || !text.starts_with('.')) return std::nullopt;
  text.remove_prefix(1);
  std::optional<std::string> name = TakeIdentifier(text);
  if (!name.has_value() || !text.empty()) return std::nullopt;
  return QualifiedName{*std::move(schema), *std::move(name)};
}

}  // namespace token_refresh
