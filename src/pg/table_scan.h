// Reads rows of a token table for the sweep, in the order of the key and in the name of the
// table's owner. Called inside RunPostgres; may raise; results are palloc'd.
#pragma once

#include "pg/schedule_plan.h"
#include "pg/statements.h"

namespace token_refresh {

struct ScannedRow {
  PlannedRow row;
  const char* trouble;  // why it cannot be read, then it has nothing but its key; null: it can
  bool locked;          // somebody holds what reading it needs; nothing but its key, too
};

struct ScannedRows {
  ScannedRow* rows;
  int count;
  const char* last;  // the last key that was read, also one that the schedule cannot hold; null: there was none
};

// The next rows beyond cursor, a row key, null at the beginning; at the end there is no last key. one_by_one: a row that
// cannot be read is noted as such, else it raises; then the batch may end sooner, but not before its first row.
void ScanRows(TokenTableStatements* statements, const char* cursor, bool one_by_one, ScannedRows* scanned);

}  // namespace token_refresh
