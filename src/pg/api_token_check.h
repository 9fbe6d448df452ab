// What an API token that somebody presents is worth. Writes nothing, needs no transaction id, works on a standby and
// in a parallel worker. For the SQL functions; may raise.
#pragma once

#include "pg/api_token_rows.h"

namespace token_refresh {

enum class ApiTokenVerdict {
  kValid,
  kMissing,    // NULL
  kMalformed,  // refused without a look-up
  kUnknown,
  kRevoked,
  kExpired,
  kReused,  // its successor was handed over, and the grace period is over
};

struct CheckedToken {
  ApiTokenVerdict verdict;
  ApiTokenRow row;       // unless kMissing, kMalformed, kUnknown
  TimestampTz until;     // of kValid: when it stops being so
};

// fresh: as it is committed now, else as the statement sees it. token may be null.
void CheckApiToken(text* token, bool fresh, CheckedToken* checked);

// kValid, kRevoked, kExpired or kReused, as of now.
ApiTokenVerdict JudgeApiToken(const ApiTokenRow& row);

// When a valid token stops being so.
TimestampTz ApiTokenEnd(const ApiTokenRow& row);

// A sentence without a full stop; null for kValid.
const char* VerdictMessage(ApiTokenVerdict verdict);

// required may be null: then no scope is asked for.
bool CoversScope(const ApiTokenRow& row, text* required);

}  // namespace token_refresh
