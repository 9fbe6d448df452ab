#include "core/provider_request.h"

#include <utility>

#include "core/ascii.h"

namespace token_refresh {
namespace {

constexpr std::string_view kUserAgent = "token_refresh (PostgreSQL)";

}  // namespace

void SetHeader(HttpRequest& request, std::string_view name, std::string_view value) {
  for (HttpHeader& header : request.headers) {
    if (AsciiLower(header.name) == AsciiLower(name)) {
      header.value = Secret(value);
      return;
    }
  }
  request.headers.push_back({std::string(name), Secret(value)});
}

HttpRequest NewProviderRequest(const Provider& provider, std::string url, const HttpDefaults& defaults) {
  const ProviderOptions& options = provider.options;
  HttpRequest request;
  request.method = "GET";
  request.url = std::move(url);
  SetHeader(request, "Accept", "application/json");
  SetHeader(request, "User-Agent", kUserAgent);
  request.connect_timeout = options.connect_timeout.value_or(defaults.connect_timeout);
  request.timeout = options.timeout.value_or(defaults.timeout);
  request.ca_file = options.ca_file.empty() ? defaults.ca_file : options.ca_file;
  // Either alone would let the other party's secrets travel in the clear.
  request.allow_insecure_http = options.allow_insecure_http && defaults.allow_insecure_http;
  return request;
}

void PostForm(HttpRequest& request, const FormParams& params) {
  request.method = "POST";
  SetHeader(request, "Content-Type", "application/x-www-form-urlencoded");
  request.body = params.Encode();
}

}  // namespace token_refresh
