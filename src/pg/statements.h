// The SQL of the store. Fixed statements are prepared once per process; those on a token
// table are made from its column mapping, and made again when the mapping changes. Called
// inside RunPostgres; may raise.
#pragma once

#include "pg/postgres_api.h"
#include "pg/token_tables.h"

namespace token_refresh {

constexpr int kMaxStatementArguments = 16;

struct Statement {
  const char* sql;
  int arguments;
  Oid types[kMaxStatementArguments];
  SPIPlanPtr plan;  // null until first use
};

// Executes, preparing it first if need be; returns SPI_processed. read_only statements see the active
// snapshot, others what is committed when they run.
uint64 Execute(Statement* statement, Datum* values, bool read_only);

// Statements on one token table.
struct TokenTableStatements {
  TokenTable table;
  // (n int4[], key text[]) -> n, subject, label, refresh_token
  Statement load;
  // (n int4[], key text[], old bytea[], access bytea[], refresh bytea[], token_type text[], scope text[],
  //  issued_at timestamptz[], expires_at timestamptz[], refresh_expires_at timestamptz[]) -> n of the rows written
  Statement save;
  // (n int4[], key text[], old bytea[], status text[], last_error text[]) -> n of the rows that still hold old
  // and that the application has not disconnected
  Statement mark;
};

TokenTableStatements* StatementsFor(int32_t token_table);

}  // namespace token_refresh
