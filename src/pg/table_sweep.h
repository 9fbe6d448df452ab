// One batch of the sweep that brings the schedule in step with a token table: a few
// milliseconds of work in a transaction. Called inside RunPostgres by the store's upkeep; may raise.
// A batch reads its rows and what the schedule knows of them with the active snapshot, and what others have
// written since then stays.
#pragma once

#include "pg/statements.h"

namespace token_refresh {

struct SweptBatch {
  char* last;           // the last key, palloc'd; null: at the end
  bool locked;          // rows that somebody holds were left out
  int failed_sqlstate;  // why a row that does not let itself be planned was left out; 0: there was none
};

// The next rows of the token table beyond cursor, a row key, empty at the beginning; those that are news are
// planned. one_by_one: what goes wrong with a row concerns that row alone.
void ReconcileBatch(TokenTableStatements* statements, const char* cursor, bool one_by_one, SweptBatch* swept);

// The next rows of the schedule beyond cursor, an id; those whose token row is gone are deleted, and at the end what
// is parked for such. Returns the last id; null at the end. table_is_empty: it may be about to be restored, so what is
// parked stays.
char* DropOrphansBatch(TokenTableStatements* statements, const char* cursor, bool table_is_empty);

}  // namespace token_refresh
