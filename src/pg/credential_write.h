// Writes tokens into the built-in token table, with the privileges of whoever it runs as: for store_credential, and
// for the refresher, which has them from a sign-in. Called with SPI connected; may raise.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/token_response.h"
#include "pg/postgres_api.h"

namespace token_refresh {

// Under which names; text, none of them null.
struct CredentialName {
  Datum provider, subject, label;
};

// The client that the tokens were given to; nothing: the provider's.
struct OwnClient {
  std::string_view id, secret;
};

// Tokens, sealed for the row of one id; the ciphertext is bound to it, so the id comes first.
struct CredentialColumns {
  bytea *access_token, *refresh_token;
  text *token_type, *scope;
  char* captured;  // a JSON object in ASCII; null: none
  text* client_id;       // null: none
  bytea* client_secret;  // null: none
  bool has_refresh_token, has_scope;
  TimestampTz issued_at;
  bool expires, refresh_expires;
  TimestampTz expires_at, refresh_expires_at;
};

// Memory for what SealTokens fills in; every token and word is shorter than bound.
void AllocateCredentialColumns(size_t bound, const OwnClient& client, CredentialColumns* sealed);
// C++ code: calls nothing that raises.
Status SealTokens(const TokenSet& tokens, const OwnClient& client, Micros now, const char* row_key,
                  CredentialColumns* sealed);

// seal(source, row_key, sealed) is PostgreSQL code that may raise; it may be called more than once.
using SealForRow = void (*)(void* source, const char* row_key, CredentialColumns* sealed);

// A SealForRow whose source is this.
struct GivenTokens {
  const TokenSet* tokens;
  Micros given_at;
  OwnClient client = {};
  Micros asked_at = 0;  // 0: they replace whatever is there. Else not what has been stored since, or is disconnected
};
void SealGivenTokens(void* source, const char* row_key, CredentialColumns* sealed);

// kNew: nothing of what is stored stays, as it may be another account's. kSame: what is not given stays.
enum class Grant { kNew, kSame };

// Updates the row that is there, or inserts one; returns its id. Raises insufficient_privilege when row-level
// security hides one from whoever writes. Audits credential_stored as actor, null: the session's user.
// asked_at: see GivenTokens; 0 when the row is newer, and stays.
int64_t WriteCredential(const CredentialName& name, Grant grant, SealForRow seal, void* source, const char* actor,
                        Micros asked_at = 0);
// Those that came in the same answer, each under its own label.
void WriteSecondary(const CredentialName& name, Grant grant, const GivenTokens& given, const char* actor);

}  // namespace token_refresh
