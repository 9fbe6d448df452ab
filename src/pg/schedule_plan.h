// When a row of a token table falls due, and what the schedule says of it. Used by the trigger
// (feed.cpp), by the sweep and by alter_provider. May raise. Caller has the extension owner's rights
// and is connected to SPI.
#pragma once

#include "pg/postgres_api.h"
#include "pg/token_tables.h"

namespace token_refresh {

// schedule.provider of a row that names no provider there is.
constexpr int32_t kUnknownProvider = 0;

// One row of a token table, as far as planning needs it.
struct PlannedRow {
  const TokenTable* table;
  int64_t schedule_id;  // if the schedule does not know the row; 0: a new one
  char* row_key;
  char* provider;  // may be null
  char* subject;   // may be null; written for attached tables only, as the label
  char* label;
  TokenStatus status;
  bool has_refresh_token;
  bool issued;     // else nobody knows since when the tokens are valid
  TimestampTz issued_at;
  bool expires;
  TimestampTz expires_at;
  bool refresh_expires;
  TimestampTz refresh_expires_at;
  bool left_alone;  // the table's filter does not hold for it
};

// What of a row is as the schedule has known it.
struct Unchanged {
  bool verdict;  // if the schedule has been told that the grant is dead, it stays so
  bool refresh_token;
  bool tokens;   // both
};

// What the schedule held when the row was read. A plan made from that must not replace what others have
// written meanwhile.
struct KnownSchedule {
  bool exists;
  int64_t generation;
  bool expires;
  TimestampTz expires_at;
  bool dead;  // needs_reauth or disconnected
  const Unchanged* arrived;  // the row has just come to its key; null: it has been there
};

// Writes what the transaction itself has just written into the row.
void PlanWrittenRow(const PlannedRow& row, const Unchanged& unchanged);

// Plans a row that the schedule does not know, or knows otherwise, without a trigger to tell what has changed: what
// the row says counts, but it tells of no new tokens. Nothing happens if the schedule is not as known any more.
void PlanReadRow(const PlannedRow& row, const KnownSchedule& known);

}  // namespace token_refresh
