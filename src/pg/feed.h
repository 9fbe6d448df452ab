// Keeps schedule in step with the token tables. When an application writes tokens, a
// trigger computes when they fall due, writes the row of schedule and, at COMMIT, wakes
// the refresher if that is earlier than it knew. Used by the trigger, by the sweep and by
// alter_provider. The writes of the refresher itself are not news to it.
#pragma once

#include "pg/postgres_api.h"
#include "pg/token_tables.h"

namespace token_refresh {

// What the refresher is about to write into this token table is no news to the schedule; 0: whatever is
// written is. What the table's own triggers write into other tables is news.
void SetOwnWrites(int32_t token_table);

// schedule.provider of a row that names no provider there is.
constexpr int32_t kUnknownProvider = 0;

// One row of a token table, as far as planning needs it.
struct PlannedRow {
  const TokenTable* table;
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

// Plans a row that the schedule does not know, or knows otherwise, without a trigger to tell what has changed. Caller
// has the extension owner's rights and is connected to SPI. May raise.
void PlanRow(const PlannedRow& row);

}  // namespace token_refresh
