// The SQL of the store. Fixed statements are prepared once per process; those on a token
// table are made from its description, and made again when that changes. Called inside
// RunPostgres; may raise.
#pragma once

#include "pg/postgres_api.h"
#include "pg/token_tables.h"

namespace token_refresh {

constexpr int kMaxStatementArguments = 20;

struct Statement {
  const char* sql;
  int arguments;
  Oid types[kMaxStatementArguments];
  SPIPlanPtr plan;  // null until first use
};

// Executes, preparing it first if need be; returns SPI_processed. read_only statements see the active
// snapshot, others what is committed when they run.
// nulls: as SPI_execute_plan wants them; null: there are none.
uint64 Execute(Statement* statement, Datum* values, bool read_only, const char* nulls = nullptr);

// The number in the first column of a row of the result, one of count: of the rows that the statement was given.
int ResultNumber(uint64 row, int count);

// Statements on one token table (table_sql.h says what they take and give). Execute them in a TableScope.
struct TokenTableStatements {
  TokenTable* table;
  Statement load;
  Statement save;
  Statement mark;
  Statement learn;
  Statement scan_first;
  Statement scan_next;
  Statement scan_row;
  Statement keys_first;
  Statement keys_next;
  Statement existing;
  Statement stored;
  Statement read;  // with the rights of whoever reads
};

// Raises when the table cannot be used as it is, with what troubles it. Valid until the end of the transaction.
TokenTableStatements* StatementsFor(int32_t token_table);

// Frees the plans.
void ReleaseStatements(TokenTableStatements* statements);

}  // namespace token_refresh
