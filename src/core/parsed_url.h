// What the core wants to know of an http(s) URL, read with libcurl's own
// parser, so that a check and the later request agree about the host.
#pragma once

#include <optional>
#include <string>

namespace token_refresh {

struct ParsedUrl {
  std::string scheme;  // "http" or "https"
  std::string host;    // lower case; an IPv6 address without its brackets
};

constexpr size_t kMaxUrlBytes = 2000;

// Nothing when it is not an absolute http(s) URL of RFC 3986 characters, has no
// host, is longer than kMaxUrlBytes, or carries user information or a fragment.
std::optional<ParsedUrl> ParseHttpUrl(const std::string& url);

// 127.0.0.0/8, ::1 and localhost, as ParsedUrl gives a host; see also IsLoopbackUrl() in curl_transport.h.
bool IsLoopbackHost(const std::string& host);

}  // namespace token_refresh
