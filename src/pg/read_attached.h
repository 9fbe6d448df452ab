// Reads a row of an attached table for a session, with the session's own rights on the table,
// and opens its access token. May raise; results are palloc'd.
#pragma once

#include "pg/catalog.h"
#include "pg/token_tables.h"

namespace token_refresh {

struct AttachedRow {
  char* row_key;   // in its canonical form
  char* provider;  // may be null
  char* subject;
  CredentialRow row;  // without id and token_type; access_token as it is stored, which may be text
  bool issued;        // row.issued_at is known
};

// Raises undefined_object when the table is not attached, object_not_in_prerequisite_state with what troubles it.
TokenTable* RequireAttached(Oid relation);

// Raises insufficient_privilege; row-level security decides what there is.
bool FetchAttached(TokenTable* table, text* row_key, Snapshot snapshot, AttachedRow* found);

// stored: of table, as it stands in the row.
text* OpenAttached(const TokenTable& table, const char* row_key, const char* subject, bytea* stored);

}  // namespace token_refresh
