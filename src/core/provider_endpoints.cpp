// The URLs among the provider options, which may have places for values.
#include "core/provider_endpoints.h"

#include <algorithm>

#include "core/parsed_url.h"
#include "core/provider_option_rows.h"
#include "core/url_template.h"

namespace token_refresh {
namespace {

struct Endpoint {
  std::string_view key;
  std::string ProviderOptions::*url;
  bool per_credential;  // the captured fields of the credential in hand are put in
};

constexpr Endpoint kEndpoints[] = {
    {"token_endpoint", &ProviderOptions::token_endpoint, true},
    {"refresh_endpoint", &ProviderOptions::refresh_endpoint, true},
    {"revocation_endpoint", &ProviderOptions::revocation_endpoint, false},
    {"introspection_endpoint", &ProviderOptions::introspection_endpoint, true},
    {"authorization_endpoint", &ProviderOptions::authorization_endpoint, false},
    {"userinfo_endpoint", &ProviderOptions::userinfo_endpoint, false},
    {"registration_endpoint", &ProviderOptions::registration_endpoint, false},
    {"issuer", &ProviderOptions::issuer, false},
    {"jwks_uri", &ProviderOptions::jwks_uri, false},
};

template <std::string ProviderOptions::*Member>
Status SetUrl(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  // Only once all options are known is it clear what the places stand for.
  if (HasPlaces(TextOf(value).value_or(""))) return ReadText(key, value, options.*Member);
  return ReadUrl(key, value, options.*Member);
}

bool IsFixed(const TextTemplate& url, const ProviderOptions& options) {
  const auto is_fixed = [&](const std::string& name) {
    return options.request.variables.contains(name) && !options.answer.captured_fields.contains(name);
  };
  return std::all_of(url.parts().begin(), url.parts().end(), [&](const TextTemplate::Part& part) {
    return std::all_of(part.names.begin(), part.names.end(), is_fixed);
  });
}

// Variables of the registration are put in for good, so that nobody else sees a template.
Status FinishUrl(const Endpoint& endpoint, ProviderOptions& options) {
  std::string& text = options.*endpoint.url;
  if (Status known = CheckPlaces(endpoint.key, "", text, options); !known) return known;
  const Result<TextTemplate> url = TextTemplate::Parse(text);
  if (!url) return url.error();
  if (Status safe = CheckUrlTemplate(*url, options.request.allowed_hosts); !safe) {
    return OptionError(endpoint.key, safe.error().message, safe.error().hint);
  }
  if (!IsFixed(*url, options)) {
    if (endpoint.per_credential) return Ok();
    return OptionError(endpoint.key, "may hold values of option \"variables\" only",
                       "Captured fields of a credential are put in only where it is refreshed or introspected.");
  }
  const auto find = [&](std::string_view name) -> std::optional<std::string> {
    return options.request.variables.at(std::string(name));
  };
  Result<std::string> expanded = ExpandUrl(text, find, options.request.allowed_hosts);
  if (!expanded) return OptionError(endpoint.key, "cannot be used: " + expanded.error().message);
  text = *std::move(expanded);
  return Ok();
}

bool IsInsecureUrl(const std::string& text) {
  const Result<TextTemplate> url = TextTemplate::Parse(text);
  const std::optional<ParsedUrl> parsed = ParseHttpUrl(url.ok() ? SampleUrl(*url) : text);
  return parsed.has_value() && parsed->scheme == "http" && !IsLoopbackHost(parsed->host);
}

}  // namespace

std::vector<OptionRow> EndpointOptionRows() {
  using O = ProviderOptions;
  using enum OptionType;
  return {
      {{"token_endpoint", kUrl}, SetUrl<&O::token_endpoint>},
      {{"refresh_endpoint", kUrl}, SetUrl<&O::refresh_endpoint>},
      {{"revocation_endpoint", kUrl}, SetUrl<&O::revocation_endpoint>},
      {{"introspection_endpoint", kUrl}, SetUrl<&O::introspection_endpoint>},
      {{"authorization_endpoint", kUrl}, SetUrl<&O::authorization_endpoint>},
      {{"userinfo_endpoint", kUrl}, SetUrl<&O::userinfo_endpoint>},
      {{"registration_endpoint", kUrl}, SetUrl<&O::registration_endpoint>},
      {{"issuer", kUrl}, SetUrl<&O::issuer>},
      {{"jwks_uri", kUrl}, SetUrl<&O::jwks_uri>},
  };
}

std::string EndpointsJson(const ProviderOptions& options) {
  SecretJson endpoints = SecretJson::object();
  for (const Endpoint& endpoint : kEndpoints) {
    const std::string& url = options.*endpoint.url;
    if (!url.empty()) endpoints[SecretString(endpoint.key)] = SecretString(url);
  }
  return std::string(endpoints.dump(-1, ' ', false, SecretJson::error_handler_t::replace));
}

Status FinishEndpoints(bool insecure_http_allowed, ProviderOptions& options) {
  for (const Endpoint& endpoint : kEndpoints) {
    if (!HasPlaces(options.*endpoint.url)) continue;
    if (Status status = FinishUrl(endpoint, options); !status) return status;
  }
  for (const Endpoint& endpoint : kEndpoints) {
    if (insecure_http_allowed || !IsInsecureUrl(options.*endpoint.url)) continue;
    return OptionError(endpoint.key, "uses plain http to a host that is not loopback",
                       "Use https. Plain http needs both the option allow_insecure_http and the administrator's "
                       "setting token_refresh.allow_insecure_http to be on.");
  }
  return Ok();
}

}  // namespace token_refresh
