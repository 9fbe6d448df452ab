// A provider: an OAuth 2.0 authorization server plus this database's client
// registration there, as the engine needs it. Its dialect is data: parsed from
// one JSON object of options by ParseProviderOptions(). Used by the engine and,
// for validation, by the SQL functions create_provider and alter_provider.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/clock.h"
#include "core/failure.h"
#include "core/provider_dialect.h"
#include "core/result.h"
#include "core/secret.h"

namespace token_refresh {

class SigningKey;

// RFC 6749 section 2.3.1, RFC 7591 section 2 (token_endpoint_auth_method)
enum class ClientAuthMethod {
  kClientSecretBasic,
  kClientSecretPost,
  kNone,
  kClientSecretJwt,  // OpenID Connect Core 1.0 section 9
  kPrivateKeyJwt,    // RFC 7523 section 2.2
  kTlsClientAuth,    // RFC 8705 section 2
  kSelfSignedTlsClientAuth,
};
// How client_id and client_secret enter the Basic header: form-encoded first, as RFC 6749 wants, or as they are.
enum class BasicEncoding { kRfc6749, kRaw };
// What stands before the colon of the Basic header. With the secret there, nothing stands behind it.
enum class BasicUser { kClientId, kClientSecret };

// What decides when a credential of the provider falls due.
struct RefreshTiming {
  std::optional<Micros> refresh_margin;  // unset: the default rule of refresh_policy
  std::optional<Micros> default_expires_in;
  std::optional<Micros> keep_alive;      // refresh at least that often
  Micros min_interval = 0;               // never refresh more often
  bool introspects = false;  // a token of which no answer has told when it expires is asked about (RFC 7662)
};

struct ProviderOptions {
  std::string token_endpoint;
  std::string refresh_endpoint;  // where to refresh, when it is not token_endpoint
  std::string revocation_endpoint, introspection_endpoint, authorization_endpoint, userinfo_endpoint;
  // RFC 7591: where each credential may have a client of its own, so that the provider needs none.
  std::string registration_endpoint;
  std::string issuer, jwks_uri;
  ClientAuthMethod auth_method = ClientAuthMethod::kClientSecretBasic;
  BasicEncoding basic_encoding = BasicEncoding::kRfc6749;
  BasicUser basic_user = BasicUser::kClientId;
  AssertionOptions assertion;
  RequestDialect request;
  AnswerDialect answer;
  std::string scope;                                  // sent with a refresh when set
  std::map<std::string, std::optional<std::string>> request_params;  // added; nullopt removes a standard one
  std::map<std::string, std::string> request_headers;
  // Of the authorization request: added; nullopt removes a standard one.
  std::map<std::string, std::optional<std::string>> authorization_params;
  bool sign_in_brings_iss = false;       // RFC 9207: the authorization response names the issuer
  std::string subject_pointer = "/sub";  // RFC 6901: who has signed in, in what userinfo_endpoint answers
  std::vector<ErrorRule> error_rules;  // tried in order, before the built-in rules
  bool keep_refresh_token = false;     // ignore a refresh token in the answer
  RefreshTiming timing;
  std::optional<Micros> replay_window;      // the provider answers a repeated refresh token within it
  std::optional<int> max_in_flight;
  std::optional<int> requests_per_minute;
  std::optional<Micros> connect_timeout, timeout;
  std::optional<Micros> max_attempt_delay;  // ceiling of the backoff
  std::string ca_file;
  std::string client_certificate, client_key;  // absolute paths of PEM files, for TLS (RFC 8705)
  bool allow_special_addresses = false;        // see HttpRequest
  bool allow_insecure_http = false;
  bool enabled = true;
};

struct Provider {
  int32_t id = 0;
  std::string name;
  std::string client_id;
  Secret client_secret;           // see client_secret_parts.h for what it may hold
  Secret previous_client_secret;  // asked with when the provider refuses the other; empty: there is none
  ProviderOptions options;
  // Keys for assertions, made of the two secrets when they are first needed. One thread at a time.
  mutable std::array<std::shared_ptr<const SigningKey>, 2> signing_keys;

  const std::string& RefreshUrl() const {
    return options.refresh_endpoint.empty() ? options.token_endpoint : options.refresh_endpoint;
  }
};

enum class OptionType { kText, kUrl, kInterval, kBoolean, kInteger, kObject, kArray, kObjectOrArray };

struct OptionSpec {
  std::string_view key;
  OptionType type;
};

// Every option key, in the order in which messages list them.
const std::vector<OptionSpec>& ProviderOptionSpecs();

// Parses and validates. json is one object in which every kInterval option has
// already become an integer number of microseconds (the SQL layer converts
// PostgreSQL interval text). "preset" is accepted and ignored here: the SQL
// layer has merged it. client_secret_given decides combinations (an auth method
// that needs a secret). Errors: kInvalidArgument, naming the key; for an unknown
// key the hint names the one that was probably meant, and lists all keys.
// insecure_http_allowed: the administrator's setting token_refresh.allow_insecure_http.
Result<ProviderOptions> ParseProviderOptions(std::string_view json, bool insecure_http_allowed);

// What needs both the options and the client: client_id present, secret present
// exactly when the method needs one, token_endpoint present.
Status CheckProviderClient(const ProviderOptions& options, bool has_client_id, bool has_client_secret);

}  // namespace token_refresh
