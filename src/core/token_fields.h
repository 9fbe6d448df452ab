// The fields of a token response, read tolerantly: what is odd becomes
// "unknown" and a warning, never an error. Used by the readers of token responses.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/clock.h"
#include "core/secret_json.h"
#include "core/token_response.h"

namespace token_refresh {

// A finite number, as such or as text.
std::optional<double> ReadNumber(const SecretJson& value);

// An absolute time: ISO 8601 (without a zone: UTC), or seconds or milliseconds since 1970, as a number or as text,
// told apart by magnitude. Nothing for all else.
std::optional<Micros> ReadMoment(const SecretJson& value);

// A lifetime in seconds, as a number or as text, cut to whole seconds. Nothing
// when it is neither, not positive, or not finite. Beyond kMaxLifetime it is that.
std::optional<Micros> ReadSeconds(const SecretJson& value);

// True for 0, as a number or as text: what Keycloak answers for a refresh token
// that does not expire.
bool IsZero(const SecretJson& value);

// A token can be stored and sent: not empty, no control characters, valid UTF-8.
bool IsUsableToken(std::string_view token);

// "Bearer" for any case of bearer and for "BearerToken"; nothing when it is not
// 1 to 64 printable ASCII characters.
std::optional<std::string> NormalTokenType(std::string_view token_type);

// A scope as text or as an array of texts, which is joined by spaces; nothing
// when it is neither or holds control characters.
std::optional<std::string> ReadScope(const SecretJson& value);

// The keys under which providers give the refresh token's own lifetime.
const std::vector<std::string_view>& RefreshLifetimeKeys();

// The member, unless it is absent or null.
const SecretJson* FindPresent(const SecretJson& object, std::string_view key);

// The lifetime that Facebook calls "expires". Elsewhere a member of that name is an
// absolute time, which is far too large for a lifetime and is ignored with a warning.
void ReadExpires(const SecretJson& answer, TokenSet& tokens);

// Everything but the tokens themselves.
void ReadTokenDetails(const SecretJson& answer, TokenSet& tokens);

}  // namespace token_refresh
