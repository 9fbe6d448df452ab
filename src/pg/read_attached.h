// Reads a row of an attached table for a session, with the session's own rights on the table,
// and opens its access token. May raise; results are palloc'd.
#pragma once

#include "pg/catalog.h"
#include "pg/token_tables.h"

namespace token_refresh {

struct AttachedRow {
  char* row_key;   // in its canonical form
  char* provider;  // may be null
  char* subject;   // null unless functions open the token
  CredentialRow row;  // without id, token_type and scope; access_token as it is stored, which may be text
  bool issued;        // row.issued_at is known
};

// Raises undefined_object when the table is not attached, object_not_in_prerequisite_state with what troubles it.
TokenTable* RequireAttached(Oid relation);

// Raises insufficient_privilege, or what CanonicalKey does; row-level security decides what there is.
bool FetchAttached(TokenTable* table, text* row_key, Snapshot snapshot, AttachedRow* found);

// The text of the key as its row has it. Raises invalid_text_representation when it has not as many parts as the key has
// columns, invalid_parameter_value when it may mean another row, as a date in the session's own DateStyle may.
char* CanonicalKey(const TokenTable& table, text* row_key);

// stored: of table, as it stands in the row; subject may be null. Raises when it does not open, naming table and row.
text* OpenAttached(const TokenTable& table, const char* row_key, const char* subject, bytea* stored);

}  // namespace token_refresh
