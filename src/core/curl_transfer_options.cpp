// What one request sets on a CurlTransfer's handle.
#include <algorithm>
#include <limits>

#include "core/curl_setopt.h"
#include "core/curl_transfer.h"

namespace token_refresh {
namespace {

// Rounded up: 0 would mean no limit at all.
long CurlMilliseconds(Micros time) {
  return std::clamp<Micros>((time + kMillisecond - 1) / kMillisecond, 1, std::numeric_limits<int>::max());
}

const char* TextOrNull(const std::string& text) { return text.empty() ? nullptr : text.c_str(); }

}  // namespace

bool CurlTransfer::SetRequestOptions() {
  if (!Set(easy_, CURLOPT_CONNECTTIMEOUT_MS, CurlMilliseconds(request_.connect_timeout)) ||
      !Set(easy_, CURLOPT_TIMEOUT_MS, CurlMilliseconds(request_.timeout)) ||
      !Set(easy_, CURLOPT_HTTPHEADER, headers_.lines()) ||
      !Set(easy_, CURLOPT_FRESH_CONNECT, request_.only_once ? 1 : 0) ||
      // Over TLS: rather wait for the first connection than open hundreds where one could carry all (HTTP/2).
      !Set(easy_, CURLOPT_PIPEWAIT, secure_ ? 1 : 0)) {
    return false;
  }
  if (request_.method == "GET") return Set(easy_, CURLOPT_HTTPGET, 1);
  // Without a pointer libcurl would read the body from standard input.
  const char* body = request_.body.empty() ? "" : request_.body.view().data();
  return Set(easy_, CURLOPT_POST, 1) && Set(easy_, CURLOPT_POSTFIELDS, body) &&
         Set(easy_, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request_.body.size()));
}

bool CurlTransfer::SetUrl() {
  if (request_.query.empty()) return Set(easy_, CURLOPT_URL, request_.url.c_str());
  Secret url(request_.url);
  url.Append(request_.url.find('?') == std::string::npos ? "?" : "&");
  url.Append(request_.query.view());
  url.Append({"", 1});  // libcurl wants the end marked
  return Set(easy_, CURLOPT_URL, url.view().data());
}

// A CA file of the request's own replaces the system's authorities instead of adding to them.
bool CurlTransfer::SetTrust() {
  const bool own = !request_.ca_file.empty();
  const std::string& file = own ? request_.ca_file : default_ca_file_;
  const bool with_path = !own && !default_ca_path_.empty();
  return Set(easy_, CURLOPT_CAINFO, file.empty() ? nullptr : file.c_str()) &&
         Set(easy_, CURLOPT_CAPATH, with_path ? default_ca_path_.c_str() : nullptr) &&
         Set(easy_, CURLOPT_SSLCERT, TextOrNull(request_.client_certificate)) &&
         Set(easy_, CURLOPT_SSLKEY, TextOrNull(request_.client_key));
}

}  // namespace token_refresh
