// Rows of session and session_secret, read without SQL. No privileges are checked: whoever presents the JWT of a
// session may know whether it lives. May raise; everything returned is plain data.
#pragma once

#include "core/uuid.h"
#include "pg/postgres_api.h"

namespace token_refresh {

// The table part of the place that a sealed secret is bound to; the row is its purpose.
constexpr const char* kSessionSecretPlace = "token_refresh.session_secret";
constexpr const char* kSessionSecretColumn = "secret";
constexpr const char* kIpHashPurpose = "ip_hash";
constexpr const char* kRefreshTokenPurpose = "refresh_token";

struct SessionRow {
  Uuid account;
  TimestampTz expires_at;
  bool revoked;
};

// By the jti of its JWT. As the statement sees it; as it is committed now under REPEATABLE READ, so that a revocation
// counts from its COMMIT on, and when the statement sees none, since it may have made the session itself.
bool FetchSession(const Uuid& jwt_id, SessionRow* row);

// By its id, as the statement sees it: whether this transaction has written the row, which then nobody else sees.
bool IsOwnSession(const Uuid& id);

// Sealed, palloc'd; null: there is none.
bytea* FetchSessionSecret(const char* purpose);

}  // namespace token_refresh
