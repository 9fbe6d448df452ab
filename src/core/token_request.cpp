#include "core/token_request.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "core/ascii.h"
#include "core/encoding.h"

namespace token_refresh {
namespace {

constexpr std::string_view kUserAgent = "token_refresh (PostgreSQL)";

// Views into the provider and the refresh token, so that no secret is copied.
struct Param {
  std::string_view name;
  std::string_view value;
};

bool StaysInForm(char c) { return IsAsciiAlphanumeric(c) || c == '*' || c == '-' || c == '.' || c == '_'; }

std::vector<Param> StandardParams(const Provider& provider, const Secret& refresh_token) {
  std::vector<Param> params = {{"grant_type", "refresh_token"}, {"refresh_token", refresh_token.view()}};
  if (!provider.options.scope.empty()) params.push_back({"scope", provider.options.scope});
  if (provider.options.auth_method != ClientAuthMethod::kClientSecretBasic) {
    params.push_back({"client_id", provider.client_id});
  }
  if (provider.options.auth_method == ClientAuthMethod::kClientSecretPost) {
    params.push_back({"client_secret", provider.client_secret.view()});
  }
  return params;
}

// A standard parameter is replaced where it stands; others follow in the order of their names.
void ApplyRequestParams(const Provider& provider, std::vector<Param>& params) {
  for (const auto& [name, value] : provider.options.request_params) {
    const auto standard =
        std::find_if(params.begin(), params.end(), [&name = name](const Param& param) { return param.name == name; });
    if (!value.has_value()) {
      if (standard != params.end()) params.erase(standard);
    } else if (standard != params.end()) {
      standard->value = *value;
    } else {
      params.push_back({name, *value});
    }
  }
}

Secret FormBody(const std::vector<Param>& params) {
  Secret body;
  for (const Param& param : params) {
    if (!body.empty()) body.Append("&");
    AppendFormEncoded(body, param.name);
    body.Append("=");
    AppendFormEncoded(body, param.value);
  }
  return body;
}

// RFC 7617 with the encoding that RFC 6749 section 2.3.1 puts in front, or without.
Secret BasicAuthorization(const Provider& provider) {
  Secret pair;
  if (provider.options.basic_encoding == BasicEncoding::kRfc6749) {
    AppendFormEncoded(pair, provider.client_id);
    pair.Append(":");
    AppendFormEncoded(pair, provider.client_secret.view());
  } else {
    pair.Append(provider.client_id);
    pair.Append(":");
    pair.Append(provider.client_secret.view());
  }
  Secret header("Basic ");
  header.Append(Base64EncodeSecret(pair.view()).view());
  return header;
}

void SetHeader(HttpRequest& request, std::string_view name, std::string_view value) {
  for (HttpHeader& header : request.headers) {
    if (AsciiLower(header.name) == AsciiLower(name)) {
      header.value = Secret(value);
      return;
    }
  }
  request.headers.push_back({std::string(name), Secret(value)});
}

}  // namespace

void AppendFormEncoded(Secret& out, std::string_view value) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  while (!value.empty()) {
    const auto odd = std::find_if_not(value.begin(), value.end(), StaysInForm);
    const size_t plain = static_cast<size_t>(odd - value.begin());
    out.Append(value.substr(0, plain));
    value.remove_prefix(plain);
    if (value.empty()) return;
    const auto byte = static_cast<unsigned char>(value.front());
    const char escape[] = {'%', kDigits[byte >> 4], kDigits[byte & 0xF]};
    out.Append(byte == ' ' ? std::string_view("+") : std::string_view(escape, sizeof escape));
    value.remove_prefix(1);
  }
}

HttpRequest BuildRefreshRequest(const Provider& provider, const Secret& refresh_token, const HttpDefaults& defaults) {
  const ProviderOptions& options = provider.options;
  HttpRequest request;
  request.method = "POST";
  request.url = provider.RefreshUrl();
  SetHeader(request, "Content-Type", "application/x-www-form-urlencoded");
  SetHeader(request, "Accept", "application/json");
  SetHeader(request, "User-Agent", kUserAgent);
  if (options.auth_method == ClientAuthMethod::kClientSecretBasic) {
    request.headers.push_back({"Authorization", BasicAuthorization(provider)});
  }
  for (const auto& [name, value] : options.request_headers) SetHeader(request, name, value);

  std::vector<Param> params = StandardParams(provider, refresh_token);
  ApplyRequestParams(provider, params);
  request.body = FormBody(params);
  request.connect_timeout = options.connect_timeout.value_or(defaults.connect_timeout);
  request.timeout = options.timeout.value_or(defaults.timeout);
  request.ca_file = options.ca_file.empty() ? defaults.ca_file : options.ca_file;
  // Either alone would let the other party's secrets travel in the clear.
  request.allow_insecure_http = options.allow_insecure_http && defaults.allow_insecure_http;
  return request;
}

}  // namespace token_refresh
