#include "core/option_values.h"

#include <algorithm>

#include "core/ascii.h"
#include "core/parsed_url.h"
#include "core/utf8.h"

namespace token_refresh {
namespace {

constexpr size_t kMaxText = 4096;
constexpr size_t kMaxQuoted = 64;
constexpr Micros kMaxTimeout = 10 * kMinute;
constexpr Micros kMaxInterval = 3650 * kDay;

// Set by the transport or by BuildRefreshRequest().
constexpr std::string_view kReservedHeaders[] = {"host",           "connection",    "transfer-encoding",
                                                 "content-length", "authorization", "content-type"};

std::string_view TypeWords(OptionType type) {
  switch (type) {
    case OptionType::kText:
      return "text";
    case OptionType::kUrl:
      return "a URL";
    case OptionType::kInterval:
      return "an interval";
    case OptionType::kBoolean:
      return "true or false";
    case OptionType::kInteger:
      return "a whole number";
    case OptionType::kObject:
      return "an object";
    case OptionType::kArray:
      return "an array";
    case OptionType::kObjectOrArray:
      break;
  }
  return "an object or an array";
}

bool HasType(OptionType type, const SecretJson& value) {
  switch (type) {
    case OptionType::kText:
    case OptionType::kUrl:
      return value.is_string();
    case OptionType::kInterval:
    case OptionType::kInteger:
      return value.is_number_integer();
    case OptionType::kBoolean:
      return value.is_boolean();
    case OptionType::kObject:
      return value.is_object();
    case OptionType::kArray:
      return value.is_array();
    case OptionType::kObjectOrArray:
      break;
  }
  return value.is_object() || value.is_array();
}

std::string_view Text(const SecretJson& value) { return TextOf(value).value_or(std::string_view()); }

bool IsHeaderName(std::string_view name) {
  // token of RFC 9110 section 5.6.2
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return IsAsciiAlphanumeric(c) || std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  });
}

bool IsReservedHeader(std::string_view name) {
  const std::string lower = AsciiLower(name);
  return std::find(std::begin(kReservedHeaders), std::end(kReservedHeaders), lower) != std::end(kReservedHeaders);
}

std::string_view IntervalWords(IntervalBound bound) {
  switch (bound) {
    case IntervalBound::kTimeout:
      return "must be positive and at most 10 minutes";
    case IntervalBound::kPositive:
      return "must be positive and at most 10 years";
    case IntervalBound::kZeroOrPositive:
      break;
  }
  return "must be between 0 and 10 years";
}

// A number beyond int64 counts as the largest: it is out of every range here.
int64_t IntegerOf(const SecretJson& value) {
  if (const auto* number = value.get_ptr<const uint64_t*>(); number != nullptr) {
    return static_cast<int64_t>(std::min<uint64_t>(*number, INT64_MAX));
  }
  return *value.get_ptr<const int64_t*>();
}

}  // namespace

Error OptionError(std::string_view key, std::string_view problem, std::string hint) {
  std::string message = "option \"";
  message.append(key).append("\" ").append(problem);
  return {ErrorCode::kInvalidArgument, std::move(message), std::move(hint)};
}

std::string ListWords(const std::vector<std::string_view>& words) {
  std::string list;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) list += i + 1 == words.size() ? " or " : ", ";
    list.append("\"").append(words[i]).append("\"");
  }
  return list;
}

std::string QuoteWord(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text.substr(0, kMaxQuoted)) quoted += IsAsciiPrintable(c) ? c : '?';
  return quoted + (text.size() > kMaxQuoted ? "...\"" : "\"");
}

Status CheckOptionType(std::string_view key, OptionType type, const SecretJson& value) {
  if (HasType(type, value)) return Ok();
  std::string problem = "must be ";
  problem.append(TypeWords(type)).append(", not ").append(JsonTypeName(value));
  if (type == OptionType::kInteger && value.is_number()) problem = "must be a whole number";
  return OptionError(key, problem);
}

Status ReadText(std::string_view key, const SecretJson& value, std::string& out) {
  if (!IsCleanText(Text(value))) return OptionError(key, "must not hold control characters");
  if (Text(value).size() > kMaxText) return OptionError(key, "must be at most 4096 bytes long");
  out = Text(value);
  return Ok();
}

Status ReadUrl(std::string_view key, const SecretJson& value, std::string& out) {
  std::string url(Text(value));
  if (!ParseHttpUrl(url).has_value()) {
    return OptionError(key, "is not a usable http(s) URL",
                       "Give an absolute URL with a host, at most 2000 characters of RFC 3986, "
                       "without user name, password, fragment or white space.");
  }
  out = std::move(url);
  return Ok();
}

Status ReadAbsolutePath(std::string_view key, const SecretJson& value, std::string& out) {
  if (!Text(value).starts_with('/')) return OptionError(key, "must be an absolute path");
  return ReadText(key, value, out);
}

Result<size_t> ReadWord(std::string_view key, const SecretJson& value, const std::vector<std::string_view>& words) {
  const auto found = std::find(words.begin(), words.end(), Text(value));
  if (found == words.end()) {
    return OptionError(key, "must be " + ListWords(words) + ", not " + QuoteWord(Text(value)));
  }
  return static_cast<size_t>(found - words.begin());
}

Result<int64_t> ReadInteger(std::string_view key, const SecretJson& value, int64_t least, int64_t most) {
  const int64_t number = IntegerOf(value);
  if (number < least || number > most) {
    return OptionError(key, "must be between " + std::to_string(least) + " and " + std::to_string(most));
  }
  return number;
}

Result<Micros> ReadInterval(std::string_view key, const SecretJson& value, IntervalBound bound) {
  const Micros least = bound == IntervalBound::kZeroOrPositive ? 0 : 1;
  const Micros most = bound == IntervalBound::kTimeout ? kMaxTimeout : kMaxInterval;
  const Micros interval = IntegerOf(value);
  if (interval < least || interval > most) return OptionError(key, IntervalWords(bound));
  return interval;
}

Status ReadRequestParams(std::string_view key, const SecretJson& value,
                         std::map<std::string, std::optional<std::string>>& out) {
  for (const auto& [name, param] : *value.get_ptr<const SecretJson::object_t*>()) {
    if (name.empty()) return OptionError(key, "holds a parameter without a name");
    const std::optional<std::string_view> text = TextOf(param);
    if (!text.has_value() && !param.is_null()) {
      return OptionError(key,
                         "must hold text or null for " + QuoteWord(name) + ", not " + std::string(JsonTypeName(param)));
    }
    out[std::string(name)] = text.has_value() ? std::optional<std::string>(*text) : std::nullopt;
  }
  return Ok();
}

Status ReadTextMap(std::string_view key, const SecretJson& value, std::map<std::string, std::string>& out) {
  for (const auto& [name, member] : *value.get_ptr<const SecretJson::object_t*>()) {
    if (name.empty() || !IsCleanText(name)) return OptionError(key, "holds a member without a usable name");
    const std::string place = std::string(key) + "." + std::string(name);
    if (Status type = CheckOptionType(place, OptionType::kText, member); !type) return type;
    if (Status text = ReadText(place, member, out[std::string(name)]); !text) return text;
  }
  return Ok();
}

Status ReadRequestHeaders(std::string_view key, const SecretJson& value, std::map<std::string, std::string>& out) {
  for (const auto& [name, header] : *value.get_ptr<const SecretJson::object_t*>()) {
    if (!IsHeaderName(name)) return OptionError(key, "holds " + QuoteWord(name) + ", which is not a header name");
    if (IsReservedHeader(name)) {
      return OptionError(key, "must not hold " + QuoteWord(name),
                         "Host, Connection, Transfer-Encoding, Content-Length, Authorization and Content-Type are set "
                         "by token_refresh.");
    }
    const std::optional<std::string_view> text = TextOf(header);
    if (!text.has_value()) {
      return OptionError(key, "must hold text for " + QuoteWord(name) + ", not " + std::string(JsonTypeName(header)));
    }
    if (!IsCleanText(*text)) return OptionError(key, "holds control characters in the value of " + QuoteWord(name));
    const bool repeated = std::any_of(out.begin(), out.end(), [&name = name](const auto& earlier) {
      return AsciiLower(earlier.first) == AsciiLower(std::string_view(name));
    });
    if (repeated) return OptionError(key, "holds " + QuoteWord(name) + " twice");
    out[std::string(name)] = *text;
  }
  return Ok();
}

}  // namespace token_refresh
