// What a session hands to the refresher with a request, as JSON: an authorization code, or an issuer to be discovered.
// Made by the SQL functions, read by the refresher; no one else sees it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/secret.h"

namespace token_refresh {

// {"authorization": id, "at": text, "code": text, "provider": text, "iss": text}; the last two may be missing.
struct CodePayload {
  int64_t authorization = 0;
  std::string at;  // the provider that the row names
  Secret code;
  std::optional<std::string> expected_provider, iss;
};
std::optional<CodePayload> ReadCodePayload(std::string_view json);

// {"issuer": text, "options": object, "has_client_secret": boolean}
struct DiscoveryPayload {
  std::string issuer;
  std::string options;  // as ParseProviderOptions reads them
  std::string auth_method;  // token_endpoint_auth_method in them; empty: not said
  bool has_client_secret = true;
};
std::optional<DiscoveryPayload> ReadDiscoveryPayload(std::string_view json);

}  // namespace token_refresh
