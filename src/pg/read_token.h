// The way from (provider, subject, label) to a usable access token: read, judge, ask the
// refresher if need be, read again. Behind get_access_token, get_token and
// refresh_credential. May raise; results are palloc'd.
#pragma once

#include "pg/catalog.h"
#include "pg/demand.h"
#include "pg/token_tables.h"

namespace token_refresh {

// Arguments of the reading functions, all checked not to be null.
struct TokenRequestArgs {
  text* provider;
  text* subject;
  text* label;
  TokenTable* table;  // attached; null: the built-in one, in which the three above name the row
  text* row_key;      // of table
  bool has_min_validity;
  int64_t min_validity;  // microseconds
};

struct TokenAnswer {
  bool stored;           // a credential exists (and the caller may see it)
  text* access_token;    // null: none to be had
  char* token_type;
  char* scope;
  bool expires;
  TimestampTz expires_at;
  const char* status;
  bool was_refreshed;
  const char* message;   // null: nothing to say
};

void ObtainToken(const TokenRequestArgs& args, TokenAnswer* answer);

struct RefreshAnswer {
  bool success;
  bool expires;
  TimestampTz expires_at;
  const char* failure;  // null on success
  const char* message;
};

void RefreshNow(const TokenRequestArgs& args, RefreshAnswer* answer);

}  // namespace token_refresh
