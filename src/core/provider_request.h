// What every request to a provider has in common, whatever it asks for: who asks, for how long, over which
// trust. For those who build requests.
#pragma once

#include <string>
#include <string_view>

#include "core/form_params.h"
#include "core/http.h"
#include "core/provider.h"
#include "core/result.h"
#include "core/text_template.h"

namespace token_refresh {

// Hold where the provider has none of its own. allow_insecure_http is the administrator's part.
struct HttpDefaults {
  Micros connect_timeout = 5 * kSecond;
  Micros timeout = 30 * kSecond;
  std::string ca_file;
  bool allow_insecure_http = false;
};

// In any case of the name: replaces a header, or adds one.
void SetHeader(HttpRequest& request, std::string_view name, std::string_view value);

// A GET of the URL that wants JSON.
HttpRequest NewProviderRequest(const Provider& provider, std::string url, const HttpDefaults& defaults);

// Makes it a POST of the form.
void PostForm(HttpRequest& request, const FormParams& params);

// Makes it what the provider wants a request for tokens to be: method and format of the parameters.
void SendParams(HttpRequest& request, const RequestDialect& dialect, const FormParams& params);

// The scope as the provider wants its words separated; it is written with spaces (RFC 6749 section 3.3).
std::string ScopeText(const RequestDialect& dialect, std::string_view scope);

// Standard parameters get the names that the provider knows them by, which live in the options; then
// request_params replace, remove and add. Errors: kInvalidArgument when a value is missing.
Status FitParams(const ProviderOptions& options, const FindValue& find, FormParams& params);

// Errors: kInvalidArgument when a value is missing, or cannot stand in a header.
Status AddOwnHeaders(const ProviderOptions& options, const FindValue& find, HttpRequest& request);

// The same for requests that are not for one credential's tokens. A header whose values are not all known is left out.
void AddKnownHeaders(const ProviderOptions& options, const FindValue& find, HttpRequest& request);
// By what is known of any registration: its own values, and the moment.
void AddKnownHeaders(const Provider& provider, HttpRequest& request);

}  // namespace token_refresh
