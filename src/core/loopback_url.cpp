#include <arpa/inet.h>
#include <netinet/in.h>

#include <cstring>

#include "core/curl_transport.h"
#include "core/parsed_url.h"

namespace token_refresh {

bool IsLoopbackHost(const std::string& host) {
  if (host == "localhost") return true;
  in_addr v4{};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && std::memcmp(&v6, &in6addr_loopback, sizeof v6) == 0;
}

bool IsLoopbackUrl(const std::string& url) {
  const std::optional<ParsedUrl> parsed = ParseHttpUrl(url);
  return parsed.has_value() && IsLoopbackHost(parsed->host);
}

}  // namespace token_refresh
