#include <curl/curl.h>

#include <algorithm>
#include <string>

#include "core/ascii.h"
#include "core/token_response.h"

namespace token_refresh {
namespace {

constexpr Micros kMaxRetryAfter = kDay;
constexpr size_t kMaxDateLength = 64;

}  // namespace

std::optional<Micros> ParseRetryAfter(std::string_view value, Micros now) {
  value = TrimAsciiSpace(value);
  if (value.empty()) return std::nullopt;
  if (std::all_of(value.begin(), value.end(), IsAsciiDigit)) {
    int64_t seconds = 0;
    for (const char c : value) seconds = std::min<int64_t>(seconds * 10 + (c - '0'), kMaxRetryAfter / kSecond);
    return seconds * kSecond;
  }
  // curl reads much more than the three forms of an HTTP-date; all three begin
  // with the day of the week.
  if (!IsAsciiAlpha(value.front()) || value.size() > kMaxDateLength) return std::nullopt;
  const time_t date = curl_getdate(std::string(value).c_str(), nullptr);
  if (date == -1) return std::nullopt;
  return std::clamp<Micros>(static_cast<Micros>(date) * kSecond - now, 0, kMaxRetryAfter);
}

}  // namespace token_refresh
