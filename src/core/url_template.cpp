#include "core/url_template.h"

#include <algorithm>
#include <optional>

#include "core/ascii.h"
#include "core/parsed_url.h"

namespace token_refresh {
namespace {

enum class Zone { kScheme, kHost, kPort, kPath, kQuery };

Error Invalid(std::string message, std::string hint = "") {
  return {ErrorCode::kInvalidArgument, std::move(message), std::move(hint)};
}

bool IsHostChar(char c) { return IsAsciiAlphanumeric(c) || c == '-' || c == '.'; }

// Where in a URL the text after this beginning of it stands.
Zone ZoneAfter(std::string_view beginning) {
  const size_t separator = beginning.find("://");
  if (separator == std::string_view::npos) return Zone::kScheme;
  const std::string_view rest = beginning.substr(separator + 3);
  if (rest.find_first_of("/?") == std::string_view::npos) {
    return rest.find_first_of(":[@") == std::string_view::npos ? Zone::kHost : Zone::kPort;
  }
  return rest.find('?') == std::string_view::npos ? Zone::kPath : Zone::kQuery;
}

struct HostShape {
  bool has_places = false;
  std::string suffix;  // ".example.com": what stands behind the last place, from its first dot on; lower case
};

HostShape ShapeOf(const TextTemplate& url) {
  HostShape shape;
  std::string sample;
  std::string after_place;
  for (const TextTemplate::Part& part : url.parts()) {
    if (ZoneAfter(sample) == Zone::kHost && !part.names.empty()) {
      shape.has_places = true;
      after_place.clear();
    }
    for (const char c : part.names.empty() ? part.text : std::string("x")) {
      sample += c;
      if (part.names.empty() && ZoneAfter(sample) == Zone::kHost) after_place += AsciiLower(c);
    }
  }
  if (!shape.has_places) return shape;
  const size_t dot = after_place.find('.');
  if (dot != std::string::npos) shape.suffix = after_place.substr(dot);
  return shape;
}

// ".example.com", so that nobody but its owner can have a name that ends so; never the end of an address.
bool IsOwnedSuffix(std::string_view suffix) {
  if (!suffix.starts_with('.') || suffix.find("..") != std::string_view::npos || suffix.ends_with('.')) return false;
  if (!std::all_of(suffix.begin(), suffix.end(), IsHostChar)) return false;
  const size_t last = suffix.rfind('.');
  return last > 0 && IsAsciiAlpha(suffix[last + 1]);
}

std::string PercentEncode(std::string_view value) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  std::string encoded;
  for (const char c : value) {
    if (IsAsciiAlphanumeric(c) || std::string_view("-._~").find(c) != std::string_view::npos) {
      encoded += c;
      continue;
    }
    const auto byte = static_cast<unsigned char>(c);
    encoded += {'%', kDigits[byte >> 4], kDigits[byte & 0xF]};
  }
  return encoded;
}

bool IsHostText(std::string_view value) {
  return std::all_of(value.begin(), value.end(), IsHostChar) && !value.starts_with('.') && !value.ends_with('.') &&
         value.find("..") == std::string_view::npos;
}

Result<std::string> Encode(Zone zone, const std::string& value) {
  if (zone == Zone::kPath || zone == Zone::kQuery) return PercentEncode(value);
  if (zone != Zone::kHost) return Invalid("a value stands in the scheme or the port of a URL");
  if (!IsHostText(value)) return Invalid("a value for the host of a URL holds something else than a host may");
  return value;
}

// "." and ".." are resolved before a request is sent, and would lead out of the path.
bool HasDotSegment(std::string_view url) {
  const size_t path = url.find('/', url.find("://") + 3);
  std::string_view rest = path == std::string_view::npos ? std::string_view() : url.substr(path, url.find('?') - path);
  while (!rest.empty()) {
    rest.remove_prefix(1);
    const std::string_view segment = rest.substr(0, rest.find('/'));
    if (segment == "." || segment == "..") return true;
    rest.remove_prefix(segment.size());
  }
  return false;
}

Status CheckExpanded(const TextTemplate& url, const std::string& expanded,
                     const std::vector<std::string>& allowed_hosts) {
  const std::optional<ParsedUrl> parsed = ParseHttpUrl(expanded);
  if (!parsed.has_value()) return Invalid("the values do not make a usable URL");
  if (HasDotSegment(expanded)) return Invalid("a value leads out of the path of a URL");
  const HostShape shape = ShapeOf(url);
  if (!shape.has_places) return Ok();
  const bool allowed = allowed_hosts.empty() ? parsed->host.size() > shape.suffix.size() &&
                                                   IsOwnedSuffix(shape.suffix) && parsed->host.ends_with(shape.suffix)
                                             : MatchesHost(parsed->host, allowed_hosts);
  return allowed ? Ok() : Status(Invalid("the values make a URL whose host is not allowed"));
}

}  // namespace

bool HasPlaces(std::string_view text) { return text.find("${") != std::string_view::npos; }

bool IsHostPattern(std::string_view pattern) {
  if (pattern.starts_with("*")) return IsOwnedSuffix(pattern.substr(1));
  return !pattern.empty() && IsHostText(pattern);
}

bool MatchesHost(std::string_view host, const std::vector<std::string>& patterns) {
  return std::any_of(patterns.begin(), patterns.end(), [host](std::string_view pattern) {
    if (!pattern.starts_with('*')) return host == pattern;
    pattern.remove_prefix(1);
    return host.size() > pattern.size() && host.ends_with(pattern);
  });
}

std::string SampleUrl(const TextTemplate& url) {
  std::string sample;
  for (const TextTemplate::Part& part : url.parts()) sample += part.names.empty() ? part.text : "x";
  return sample;
}

Status CheckUrlTemplate(const TextTemplate& url, const std::vector<std::string>& allowed_hosts) {
  std::string sample;
  for (const TextTemplate::Part& part : url.parts()) {
    const Zone zone = ZoneAfter(sample);
    if (!part.names.empty() && (zone == Zone::kScheme || zone == Zone::kPort)) {
      return Invalid("has a place for a value in its scheme or port");
    }
    sample += part.names.empty() ? part.text : "x";
  }
  if (!ParseHttpUrl(sample).has_value()) return Invalid("is not a usable http(s) URL");
  const HostShape shape = ShapeOf(url);
  if (!shape.has_places || !allowed_hosts.empty() || IsOwnedSuffix(shape.suffix)) return Ok();
  return Invalid("lets a value decide whose host is asked, and there are no \"allowed_hosts\"",
                 "Give option \"allowed_hosts\", or let the host end in two labels or more, as in "
                 "https://${tenant}.example.com.");
}

Result<std::string> ExpandUrl(std::string_view text, const FindValue& find,
                              const std::vector<std::string>& allowed_hosts) {
  if (!HasPlaces(text)) return std::string(text);
  const Result<TextTemplate> url = TextTemplate::Parse(text);
  if (!url) return url.error();
  std::string expanded;
  for (const TextTemplate::Part& part : url->parts()) {
    if (part.names.empty()) {
      expanded += part.text;
      continue;
    }
    const Result<std::string> value = ValueOf(part, find);
    if (!value) return value.error();
    const Result<std::string> encoded = Encode(ZoneAfter(expanded), *value);
    if (!encoded) return encoded.error();
    expanded += *encoded;
  }
  if (Status status = CheckExpanded(*url, expanded, allowed_hosts); !status) return status.error();
  return expanded;
}

}  // namespace token_refresh
