// What every request to a provider has in common, whatever it asks for: who asks, for how long, over which
// trust. For those who build requests.
#pragma once

#include <string>
#include <string_view>

#include "core/form_params.h"
#include "core/http.h"
#include "core/provider.h"

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

}  // namespace token_refresh
