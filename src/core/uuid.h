// UUIDs as text (RFC 9562 section 4). May be used by anyone.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace token_refresh {

using Uuid = std::array<uint8_t, 16>;

// The usual form alone: 36 characters with four hyphens, in lower case, as PostgreSQL writes it.
constexpr std::optional<Uuid> ParseUuid(std::string_view text) {
  if (text.size() != 36) return std::nullopt;
  Uuid uuid{};
  int digits = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (i == 8 || i == 13 || i == 18 || i == 23) {
      if (c != '-') return std::nullopt;
      continue;
    }
    const bool is_decimal = c >= '0' && c <= '9';
    if (!is_decimal && !(c >= 'a' && c <= 'f')) return std::nullopt;
    const int value = is_decimal ? c - '0' : c - 'a' + 10;
    uuid[digits / 2] = static_cast<uint8_t>(uuid[digits / 2] * 16 + value);
    ++digits;
  }
  return uuid;
}

}  // namespace token_refresh
