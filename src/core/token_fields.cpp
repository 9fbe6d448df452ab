#include "core/token_fields.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/ascii.h"
#include "core/iso_time.h"
#include "core/utf8.h"

namespace token_refresh {
namespace {

constexpr size_t kMaxTokenType = 64;
constexpr Micros kMaxSeconds = kMaxLifetime / kSecond;
// Seconds since 1970 reach this in the year 5138, milliseconds did in 1973.
constexpr double kSmallestMilliseconds = 1e11;
constexpr double kLargestMilliseconds = 1e14;
constexpr auto kMaxLifetimeSeconds = static_cast<double>(kMaxSeconds);

bool ExceedsMaxLifetime(const SecretJson& value) {
  const std::optional<double> seconds = ReadNumber(value);
  return seconds.has_value() && *seconds > kMaxLifetimeSeconds;
}

std::optional<Micros> ReadLifetime(const SecretJson& value, std::string_view key, TokenSet& tokens) {
  const std::optional<Micros> lifetime = ReadSeconds(value);
  if (!lifetime.has_value()) {
    tokens.warnings.push_back(std::string(key) + " is " + std::string(JsonTypeName(value)) +
                              " that is not a positive number of seconds; ignored");
  } else if (ExceedsMaxLifetime(value)) {
    tokens.warnings.push_back(std::string(key) + " is longer than ten years; taken as ten years");
  }
  return lifetime;
}

void ReadAccessLifetime(const SecretJson& answer, TokenSet& tokens) {
  if (const SecretJson* expires_in = FindMember(answer, "expires_in"); expires_in != nullptr) {
    tokens.expires_in = ReadLifetime(*expires_in, "expires_in", tokens);
    return;
  }
  ReadExpires(answer, tokens);
}

void ReadRefreshLifetime(const SecretJson& answer, TokenSet& tokens) {
  for (const std::string_view key : RefreshLifetimeKeys()) {
    const SecretJson* value = FindPresent(answer, key);
    if (value == nullptr) continue;
    if (!IsZero(*value)) tokens.refresh_expires_in = ReadLifetime(*value, key, tokens);
    return;
  }
}

void ReadTokenType(const SecretJson& answer, TokenSet& tokens) {
  const SecretJson* value = FindPresent(answer, "token_type");
  if (value == nullptr) return;
  const std::optional<std::string_view> text = TextOf(*value);
  if (text.has_value() && text->empty()) return;
  std::optional<std::string> token_type = text.has_value() ? NormalTokenType(*text) : std::nullopt;
  if (token_type.has_value()) {
    tokens.token_type = *std::move(token_type);
  } else {
    tokens.warnings.push_back("token_type is not a short printable text; taken as Bearer");
  }
}

}  // namespace

std::optional<double> ReadNumber(const SecretJson& value) {
  double number = 0;
  if (value.is_number_unsigned()) {
    number = static_cast<double>(*value.get_ptr<const uint64_t*>());
  } else if (value.is_number_integer()) {
    number = static_cast<double>(*value.get_ptr<const int64_t*>());
  } else if (value.is_number_float()) {
    number = *value.get_ptr<const double*>();
  } else if (const std::optional<std::string_view> text = TextOf(value); text.has_value()) {
    const std::string_view digits = TrimAsciiSpace(*text);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  } else {
    return std::nullopt;
  }
  if (!std::isfinite(number)) return std::nullopt;
  return number;
}

std::optional<Micros> ReadMoment(const SecretJson& value) {
  if (const std::optional<std::string_view> text = TextOf(value); text.has_value()) {
    const std::string trimmed(TrimAsciiSpace(*text));
    std::optional<Micros> moment = ParseIsoTime(trimmed);
    if (!moment.has_value()) moment = ParseIsoTime(trimmed + "Z");
    if (moment.has_value()) return moment;
  }
  const std::optional<double> number = ReadNumber(value);
  if (!number.has_value() || *number <= 0 || *number >= kLargestMilliseconds) return std::nullopt;
  const double unit = static_cast<double>(*number < kSmallestMilliseconds ? kSecond : kMillisecond);
  return static_cast<Micros>(*number * unit);
}

std::optional<Micros> ReadSeconds(const SecretJson& value) {
  const std::optional<double> seconds = ReadNumber(value);
  if (!seconds.has_value() || *seconds < 1) return std::nullopt;
  return static_cast<Micros>(std::min(*seconds, kMaxLifetimeSeconds)) * kSecond;
}

bool IsZero(const SecretJson& value) { return ReadNumber(value) == 0.0; }

bool IsUsableToken(std::string_view token) { return !token.empty() && IsCleanText(token); }

std::optional<std::string> NormalTokenType(std::string_view token_type) {
  if (token_type.empty() || token_type.size() > kMaxTokenType) return std::nullopt;
  if (!std::all_of(token_type.begin(), token_type.end(), IsAsciiPrintable)) return std::nullopt;
  const std::string lower = AsciiLower(token_type);
  // What has a space in it is prose, no name of a type (RFC 6749 section 8.1), as eBay's "User Access Token".
  if (lower == "bearer" || lower == "bearertoken" || lower.find(' ') != std::string::npos) return "Bearer";
  return std::string(token_type);
}

std::optional<std::string> ReadScope(const SecretJson& value) {
  std::string scope;
  if (const std::optional<std::string_view> text = TextOf(value); text.has_value()) {
    scope = *text;
  } else if (const auto* array = value.get_ptr<const SecretJson::array_t*>(); array != nullptr) {
    for (const SecretJson& element : *array) {
      const std::optional<std::string_view> word = TextOf(element);
      if (!word.has_value()) return std::nullopt;
      if (!scope.empty()) scope += ' ';
      scope += *word;
    }
  } else {
    return std::nullopt;
  }
  if (!IsCleanText(scope)) return std::nullopt;
  return scope;
}

const std::vector<std::string_view>& RefreshLifetimeKeys() {
  static const std::vector<std::string_view> keys = {"refresh_token_expires_in", "x_refresh_token_expires_in",
                                                     "refresh_expires_in"};
  return keys;
}

const SecretJson* FindPresent(const SecretJson& object, std::string_view key) {
  const SecretJson* member = FindMember(object, key);
  return member == nullptr || member->is_null() ? nullptr : member;
}

void ReadExpires(const SecretJson& answer, TokenSet& tokens) {
  const SecretJson* expires = FindPresent(answer, "expires");
  if (expires == nullptr) return;
  if (ExceedsMaxLifetime(*expires)) {
    tokens.warnings.push_back("expires is too large for a lifetime; ignored");
  } else {
    tokens.expires_in = ReadLifetime(*expires, "expires", tokens);
  }
}

void ReadTokenDetails(const SecretJson& answer, TokenSet& tokens) {
  ReadAccessLifetime(answer, tokens);
  ReadRefreshLifetime(answer, tokens);
  if (const SecretJson* hint = FindPresent(answer, "refresh_in"); hint != nullptr) {
    tokens.refresh_in = ReadLifetime(*hint, "refresh_in", tokens);
  }
  ReadTokenType(answer, tokens);
  if (const SecretJson* scope = FindPresent(answer, "scope"); scope != nullptr) {
    std::optional<std::string> text = ReadScope(*scope);
    if (text.has_value()) {
      tokens.scope = *std::move(text);
    } else {
      tokens.warnings.push_back("scope is neither text nor a list of texts; ignored");
    }
  }
}

}  // namespace token_refresh
