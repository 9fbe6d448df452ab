// One parked result, as it is written for tokens that come beside those of a claim. Plain data, palloc'd.
#pragma once

#include "pg/postgres_api.h"

namespace token_refresh {

struct ParkedTime {
  bool known;
  TimestampTz at;
};

// Tokens, sealed for kParkedPlace and the id of their parked result. What is null was not given.
struct ParkedTokens {
  bytea *access_token, *refresh_token, *client_secret;
  char *token_type, *scope, *captured;
  ParkedTime issued_at, expires_at, refresh_expires_at;
};

// For a row of the built-in table.
struct ParkedResult {
  int64_t schedule_id, generation;
  char* row_key;
  ParkedTokens tokens;
  bytea* replaces_refresh_token;  // the one in the row, sealed as the tokens are
  bytea* replaces;                // SHA-256 of that, as it is stored
  ParkedTime due_at;
  bool expiry_assumed;
};

// Overwrites what is parked for the row, which is older; the schedule hears of it if its row is free. Connected to
// SPI; may raise.
void WriteParkedResult(const ParkedResult& parked, const char* reason);

}  // namespace token_refresh
