// One batch of the sweep that brings the schedule in step with a token table: a few
// milliseconds of work in a transaction. Called inside RunPostgres by the store's upkeep; may raise.
#pragma once

#include "pg/statements.h"

namespace token_refresh {

// The next rows of the token table beyond cursor, a row key, empty at the beginning; those that are news are
// planned. Returns the last key, palloc'd; null at the end.
char* ReconcileBatch(TokenTableStatements* statements, const char* cursor);

// The next rows of the schedule beyond cursor, an id; those whose token row is gone are deleted, and at the end what
// is parked for such. Returns the last id; null at the end.
char* DropOrphansBatch(TokenTableStatements* statements, const char* cursor);

}  // namespace token_refresh
