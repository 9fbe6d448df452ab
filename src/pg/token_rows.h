// Reads rows of token tables as claims, saves and parked results need them: in the owner's
// name, so that a table that cannot be read, or a row on which the owner's functions fail, harms no
// other. Called inside RunPostgres; results are palloc'd in the given context. May raise
// for what is wrong with the extension itself.
#pragma once

#include "core/clock.h"
#include "pg/postgres_api.h"
#include "pg/token_tables.h"

namespace token_refresh {

// Plain data. opened and opened_access are tokens in plain text: WipeOpened when it has been used.
struct TokenRow {
  bool access_wanted;   // set by the caller: the access token is read as well
  bool found;
  bool locked;          // somebody holds the whole table locked; nothing below is set
  const char* trouble;  // null: none; else nothing below is set, but the next. Holds no secret.
  Micros trouble_until; // when it will be over; 0: nobody knows
  char* subject;
  char* label;
  char* captured;          // a JSON object of texts; null: none
  struct varlena* stored;  // the refresh token as stored; null: none
  char* opened;            // by the table's decrypt function; null: the cipher is another
  struct varlena* stored_access;  // only if wanted; null: none, or too long
  char* opened_access;
  char* client_id;                       // of the credential itself; null: the provider's client is meant
  struct varlena* stored_client_secret;  // null: none
  TimestampTz refresh_expires_at;        // 0: not known
  bool filter_holds;
  TokenStatus status;
};

constexpr const char* kTooLongMessage = "the refresh token in the row is longer than 64 kB";
constexpr const char* kHiddenMessage = "the row is gone, or row-level security hides it from the owner of the table";

// Reads rows of one table; row_keys and rows are as long as count.
void ReadTokenRows(TokenTable* table, const char* const* row_keys, int count, MemoryContext context, TokenRow* rows);

// Overwrites the tokens that ReadTokenRows has left in memory.
void WipeOpened(TokenRow* rows, int count);

}  // namespace token_refresh
