// How the holder of an API token gets its successor, and what follows when a token is presented after its grace
// period. The refresher writes, in a transaction of its own, so that a ROLLBACK of the caller takes back nothing that
// a client may have got; where there is no refresher, or the token itself is not committed yet, the caller's
// transaction does. For the SQL functions; may raise.
#pragma once

#include "pg/api_token_rows.h"

namespace token_refresh {

struct Successor {
  text* token;             // null: there is none to be had, message says why
  TimestampTz expires_at;
  const char* message;
};

// Hands over the successor of a valid token, making one if there is none. Everybody who asks gets the same.
void ObtainSuccessor(const ApiTokenRow& row, Successor* successor);

// Revokes the family of a token that was presented after its grace period.
void ReportReuse(const ApiTokenRow& row);

}  // namespace token_refresh
