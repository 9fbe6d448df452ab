// What an issuer publishes about itself (RFC 8414 section 2, OpenID Connect Discovery 1.0 section 3): where to ask for
// it, and how it becomes options of a provider. Called by Discoveries.
#pragma once

#include <string>
#include <string_view>

namespace token_refresh {

// An http(s) URL without query and fragment, of which http only to loopback unless insecure_allowed.
bool IsIssuer(const std::string& text, bool insecure_allowed);

// OpenID Connect Discovery 1.0 section 4.1: the well-known path stands behind the issuer's own.
std::string OpenidConfigurationUrl(std::string_view issuer);
// RFC 8414 section 3.1: it stands before the issuer's own.
std::string OauthMetadataUrl(std::string_view issuer);

struct DiscoveryRules {
  std::string_view issuer;  // the one that was asked
  bool has_client_secret = true;
  bool insecure_allowed = false;  // plain http to other hosts than loopback
  std::string_view auth_method = {};  // token_endpoint_auth_method of the client; empty: to be chosen
};

struct DiscoveredOptions {
  std::string options;  // a JSON object
  std::string failure;  // document_unusable or issuer_mismatch; empty: there is none
  std::string message;
};

// An endpoint that is no URL we would send a secret to is left out, such as one of loopback when the issuer is not;
// except that there must be a token_endpoint.
DiscoveredOptions ReadDiscoveryDocument(std::string_view document, const DiscoveryRules& rules);

}  // namespace token_refresh
