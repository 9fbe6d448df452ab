// The extension's own tables as C++ sees them: how to find them, and the rows that
// are read without SQL because that is faster or must go round privileges that
// the caller has passed already. Column numbers are those of the install script. May raise;
// everything returned is palloc'd plain data.
#pragma once

#include <cstdint>

#include "pg/postgres_api.h"

namespace token_refresh {

constexpr const char* kSchema = "token_refresh";
constexpr int kBuiltInTokenTable = 1;
// The table parts of the places that ciphertexts are bound to.
constexpr const char* kCredentialPlace = "token_refresh.credential";
constexpr const char* kProviderPlace = "token_refresh.provider";
constexpr const char* kParkedPlace = "token_refresh.parked_result";

// Oid of a table or index of the extension; raises undefined_table when the extension is not
// installed in this database.
Oid ExtensionRelation(const char* name);

// A row of credential, without what nobody but the refresher may open.
struct CredentialRow {
  int64_t id;
  bytea* access_token;  // sealed
  bool has_refresh_token;
  char* token_type;
  char* scope;  // may be null
  char* status;
  TimestampTz issued_at;
  bool expires;
  TimestampTz expires_at;
};

// Reads with the caller's privileges: SELECT on credential, and row-level security if it
// applies to the caller. Raises insufficient_privilege.
bool FetchCredential(text* provider, text* subject, text* label, Snapshot snapshot, CredentialRow* row);

struct ScheduleRow {
  int64_t id;
  int32_t provider;
  char* status;
  bool due;  // has a due_at
  TimestampTz due_at;
  int32_t attempts;
  char* failure;  // may be null
  char* message;  // may be null
  int64_t generation;
  bool written_by_this_transaction;  // not committed yet, so the refresher cannot see it
};

// No privileges are checked: only for rows whose token row the caller was allowed to read.
bool FetchSchedule(int32_t token_table, const char* row_key, Snapshot snapshot, ScheduleRow* row);

bool FetchScheduleById(int64_t id, Snapshot snapshot, ScheduleRow* row);

struct ParkedRow {
  bytea* access_token;  // sealed for kParkedPlace, row: the schedule id; null: the stored one stays
  char* token_type;
  char* scope;
  TimestampTz issued_at;
  bool expires;
  TimestampTz expires_at;
};

bool FetchParked(int64_t schedule_id, Snapshot snapshot, ParkedRow* row);

}  // namespace token_refresh
