#include "core/parsed_url.h"

#include <curl/curl.h>

#include <algorithm>
#include <memory>
#include <string_view>

#include "core/ascii.h"

namespace token_refresh {
namespace {

using CurlUrl = std::unique_ptr<CURLU, decltype(&curl_url_cleanup)>;

// RFC 3986 section 2, without "#". Braces are out, so a template is refused
// rather than sent as it stands.
bool IsUrlChar(char c) {
  return IsAsciiAlphanumeric(c) || std::string_view("-._~:/?[]@!$&'()*+,;=%").find(c) != std::string_view::npos;
}

// What stands between "://" and the path; nothing unless the scheme is http(s).
std::optional<std::string_view> Authority(std::string_view url) {
  const size_t separator = url.find("://");
  if (separator == std::string_view::npos) return std::nullopt;
  const std::string scheme = AsciiLower(url.substr(0, separator));
  if (scheme != "http" && scheme != "https") return std::nullopt;
  const std::string_view rest = url.substr(separator + 3);
  return rest.substr(0, rest.find_first_of("/?"));
}

std::optional<std::string> Part(CURLU* url, CURLUPart part) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, 0) != CURLUE_OK) return std::nullopt;
  std::string copy(text);
  curl_free(text);
  return copy;
}

}  // namespace

std::optional<ParsedUrl> ParseHttpUrl(const std::string& url) {
  if (url.size() > kMaxUrlBytes || !std::all_of(url.begin(), url.end(), IsUrlChar)) return std::nullopt;
  const std::optional<std::string_view> authority = Authority(url);
  if (!authority.has_value() || authority->empty() || authority->find('@') != std::string_view::npos) {
    return std::nullopt;
  }
  const CurlUrl parsed(curl_url(), curl_url_cleanup);
  if (parsed == nullptr || curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK) {
    return std::nullopt;
  }
  const std::optional<std::string> scheme = Part(parsed.get(), CURLUPART_SCHEME);
  const std::optional<std::string> host = Part(parsed.get(), CURLUPART_HOST);
  if (!scheme.has_value() || !host.has_value() || host->empty()) return std::nullopt;
  ParsedUrl result{AsciiLower(*scheme), AsciiLower(*host)};
  if (result.host.front() == '[') result.host = result.host.substr(1, result.host.size() - 2);
  return result;
}

}  // namespace token_refresh
