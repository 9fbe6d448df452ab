// One batch of the sweep that brings the schedule in step with a token table: a few
// milliseconds of work in a transaction. Called inside RunPostgres by the store's upkeep; may raise.
// A batch reads its rows and what the schedule knows of them with the active snapshot, and what others have
// written since then stays.
#pragma once

#include <span>

#include "pg/statements.h"

namespace token_refresh {

struct SweptBatch {
  const char* last;     // the last key, palloc'd; null: at the end
  bool locked;          // rows that somebody holds were left out
  bool detached;        // the table is not attached any more, or is being detached: nothing was written
  int failed_sqlstate;  // why a row that does not let itself be planned was left out; 0: there was none
};

// A refresh token that a provider is being asked with, by the digest of what its row holds.
struct InFlightToken {
  int64_t schedule_id;
  char digest[32];
};

// The next rows of the schedule beyond cursor, an id, null at the beginning: those whose token row is gone lose their
// key, or go if there is nothing that could be lost with them. Returns the last id, palloc'd; null at the end.
char* FindMissingBatch(TokenTableStatements* statements, const char* cursor, std::span<const InFlightToken> in_flight);

// The next rows of the token table beyond cursor, a row key, null at the beginning; those that are news are
// planned; those that are new to the schedule may be missing ones. one_by_one: what goes wrong with a row concerns that
// row alone.
void ReconcileBatch(TokenTableStatements* statements, const char* cursor, bool one_by_one,
                    std::span<const InFlightToken> in_flight, SweptBatch* swept);

// What has been deleted, or was missed before this sweep began and has not been found, and what is parked for it.
// table_is_empty: it may be about to be restored, so what is parked for rows that nobody knows stays. left_out: some
// rows have not been looked at, so nothing is concluded of those that were missed. False when there may be more.
bool CleanUpBatch(int32_t token_table, Micros began_at, bool table_is_empty, bool left_out);

}  // namespace token_refresh
