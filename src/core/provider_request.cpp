#include "core/provider_request.h"

#include <chrono>
#include <utility>

#include "core/ascii.h"
#include "core/request_values.h"
#include "core/utf8.h"

namespace token_refresh {
namespace {

constexpr std::string_view kUserAgent = "token_refresh (PostgreSQL)";

Result<std::string> HeaderValue(const std::string& name, const std::string& text, const FindValue& find) {
  Result<std::string> value = ExpandText(text, find);
  if (value.ok() && !IsCleanText(*value)) {
    return Error{ErrorCode::kInvalidArgument, "the value of header " + name + " holds control characters", ""};
  }
  return value;
}

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
  request.allow_special_addresses = options.allow_special_addresses;
  // Either alone would let the other party's secrets travel in the clear.
  request.allow_insecure_http = options.allow_insecure_http && defaults.allow_insecure_http;
  return request;
}

void PostForm(HttpRequest& request, const FormParams& params) {
  request.method = "POST";
  SetHeader(request, "Content-Type", "application/x-www-form-urlencoded");
  request.body = params.Encode();
}

void SendParams(HttpRequest& request, const RequestDialect& dialect, const FormParams& params) {
  request.method = dialect.method == RequestMethod::kGet ? "GET" : "POST";
  switch (dialect.format) {
    case RequestFormat::kForm:
      return PostForm(request, params);
    case RequestFormat::kJson:
      SetHeader(request, "Content-Type", "application/json");
      request.body = params.EncodeJson();
      return;
    case RequestFormat::kQuery:
      request.query = params.Encode();
      return;
  }
}

std::string ScopeText(const RequestDialect& dialect, std::string_view scope) {
  const std::string& separator = dialect.scope_separator;
  if (separator == " ") return std::string(scope);
  std::string joined;
  std::string_view rest = TrimAsciiSpace(scope);
  while (!rest.empty()) {
    const std::string_view word = rest.substr(0, rest.find(' '));
    joined.append(joined.empty() ? "" : separator).append(word);
    rest = TrimAsciiSpace(rest.substr(word.size()));
  }
  return joined;
}

Status FitParams(const ProviderOptions& options, const FindValue& find, FormParams& params) {
  params.Rename(options.request.param_names);
  // A standard parameter is replaced where it stands; others follow in the order of their names.
  for (const auto& [name, text] : options.request_params) {
    if (!text.has_value()) {
      params.Remove(name);
      continue;
    }
    const Result<std::string> value = ExpandText(*text, find);
    if (!value) return value.error();
    params.SetOwned(name, Secret(*value));
  }
  return Ok();
}

Status AddOwnHeaders(const ProviderOptions& options, const FindValue& find, HttpRequest& request) {
  for (const auto& [name, text] : options.request_headers) {
    const Result<std::string> value = HeaderValue(name, text, find);
    if (!value) return value.error();
    SetHeader(request, name, *value);
  }
  return Ok();
}

void AddKnownHeaders(const ProviderOptions& options, const FindValue& find, HttpRequest& request) {
  for (const auto& [name, text] : options.request_headers) {
    const Result<std::string> value = HeaderValue(name, text, find);
    if (value) SetHeader(request, name, *value);
  }
}

void AddKnownHeaders(const Provider& provider, HttpRequest& request) {
  using std::chrono::duration_cast;
  const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
  const RequestValues values(provider, "", "", duration_cast<std::chrono::microseconds>(since_epoch).count());
  AddKnownHeaders(provider.options, values.Finder(), request);
}

}  // namespace token_refresh
