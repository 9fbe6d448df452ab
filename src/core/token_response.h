// Reads what a token endpoint answered (RFC 6749 sections 5.1 and 5.2) tolerantly:
// JSON whatever the Content-Type says, form encoding as some providers send,
// numbers as strings, missing fields. The rule: never lose a refresh token that
// was understood, never call a grant dead on a guess. Called by the engine, and
// by store_credential through ParseStoredTokens.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/clock.h"
#include "core/failure.h"
#include "core/http.h"
#include "core/provider.h"
#include "core/result.h"
#include "core/secret.h"

namespace token_refresh {

struct SecondaryTokens;

struct TokenSet {
  Secret access_token;
  Secret refresh_token;  // empty: the answer held none, the stored one stays
  Secret id_token;       // OpenID Connect Core 1.0 section 3.1.3.3, as it came; empty: none
  std::string token_type = "Bearer";  // RFC 6750 spelling for any case of bearer, and when missing
  std::string scope;     // empty: not said
  std::optional<Micros> expires_in;          // relative to the answer; unset: unknown
  std::optional<Micros> refresh_expires_in;  // the refresh token's own deadline
  std::optional<Micros> refresh_in;          // the provider's hint when to refresh
  // What captured_fields names and the answer holds: a JSON object of texts, to be stored in place of the former;
  // empty: nothing, what is stored stays.
  std::string captured;
  // Each its own credential (secondary_tokens), to be stored with this one.
  std::vector<SecondaryTokens> secondary;
  std::vector<std::string> warnings;         // odd things worth an audit event; no secret
};

struct SecondaryTokens {
  std::string label;
  TokenSet tokens;
};

// An answer that gives no access token, or the lack of an answer.
struct FailedAnswer {
  Failure failure;
  // It gives a refresh token all the same, without saying that anything failed: from now on this is the one
  // to present. Empty: none, or none that can be trusted.
  Secret refresh_token;
  std::optional<Micros> refresh_expires_in;  // of refresh_token
  // A success, as its status says, that could not be read: the provider may have replaced the refresh token.
  bool unread_success = false;
  // It says invalid_client (RFC 6749 section 5.2): nothing but the client's proof was looked at.
  bool client_refused = false;
};

// An expiry beyond this is clamped to it (ten years).
constexpr Micros kMaxLifetime = 3650 * kDay;

// What was asked for. keep_refresh_token is about answers to a refresh: with a code there is nothing to be kept yet.
enum class TokenAsk { kRefresh, kCode };

// Any status of 2xx is a success, unless success_statuses says otherwise. sent are the secrets of the request,
// scrubbed from whatever is reported. label is that of the credential: if secondary_tokens says where those of
// that label are, and they are there, they are its own. now is for an HTTP-date in Retry-After, and for expiries that are times.
std::variant<TokenSet, FailedAnswer> ReadTokenResponse(const Provider& provider, const HttpResponse& response,
                                                       const std::vector<std::string_view>& sent, Micros now,
                                                       TokenAsk ask = TokenAsk::kRefresh, std::string_view label = {});

// A token_response that an application hands to store_credential: the JSON object
// a token endpoint gave it, optionally with expires_at (ISO 8601 text with zone, or epoch
// seconds or milliseconds as a number, told apart by magnitude) instead of expires_in.
// Strict where the caller can be told: errors name the key.
// expires_in is then relative to now. access_token_needed false: without one the token has expired.
Result<TokenSet> ParseStoredTokens(std::string_view json, Micros now, bool access_token_needed = true);

// Retry-After: seconds or an HTTP-date (RFC 9110 section 10.2.3), as a delay from now,
// clamped to [0, 1 day]; nothing when it is neither.
std::optional<Micros> ParseRetryAfter(std::string_view value, Micros now);

}  // namespace token_refresh
