// Issuer discovery (OpenID Connect Discovery 1.0 section 4, RFC 8414 section 3): the options of a provider from its
// issuer. Lives in the refresher, many at a time; does no waiting and no storing. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/clock.h"
#include "core/http.h"
#include "core/provider.h"
#include "core/provider_request.h"

namespace token_refresh {

struct DiscoveryRequest {
  uint64_t id = 0;                           // comes back with the result
  std::shared_ptr<const Provider> provider;  // for how to ask: timeouts, ca_file, allow_insecure_http
  std::string issuer;
  bool has_client_secret = true;  // decides about token_endpoint_auth_method
  std::string auth_method;        // what it is, if that is decided already
};

struct DiscoveryResult {
  uint64_t id = 0;
  bool found = false;
  // A JSON object of provider options: issuer, token_endpoint, and of authorization_endpoint, revocation_endpoint,
  // introspection_endpoint, userinfo_endpoint, jwks_uri, token_endpoint_auth_method and
  // authorization_response_iss_parameter_supported those that the issuer has.
  std::string options;
  // One word, empty when found: issuer_invalid, provider_unavailable (no answer, 5xx, 429), not_found (there is no
  // document), document_unusable, issuer_mismatch, shutting_down.
  std::string failure;
  std::string message;  // one sentence, scrubbed; empty when found
  Micros duration = 0;
};

class Discoveries {
 public:
  static constexpr size_t kDefaultMaxUnderWay = 16;

  // transport and clock outlive this; nothing else collects from the transport.
  Discoveries(HttpTransport& transport, const Clock& clock, size_t max_under_way = kDefaultMaxUnderWay);
  ~Discoveries();

  // Holds for requests from now on.
  void Configure(const HttpDefaults& defaults);

  // Has its result in TakeFinished(), maybe already before the next Turn().
  void Begin(DiscoveryRequest request);
  void Turn();
  std::vector<DiscoveryResult> TakeFinished();
  size_t unfinished() const;

  // Everything that is unfinished, and what begins from now on, ends as shutting_down.
  void Abandon();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace token_refresh
