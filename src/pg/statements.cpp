#include "pg/statements.h"

#include "pg/table_sql.h"

namespace token_refresh {

namespace {

// Rows that a sweep looks at in one transaction, a few milliseconds of work.
constexpr int kScanBatch = 250;

void SetStatement(Statement* statement, const char* sql, int arguments, const Oid* types) {
  *statement = {};
  statement->sql = sql;
  statement->arguments = arguments;
  memcpy(statement->types, types, sizeof(Oid) * arguments);
}

TokenTableStatements* Make(TokenTable* table) {
  const Oid stored = StoredArrayType(*table), fresh = NewTokenArrayType(*table);
  const Oid keys[] = {INT4ARRAYOID, TEXTARRAYOID};
  const Oid save[] = {INT4ARRAYOID, TEXTARRAYOID, stored,
                      fresh,        fresh,        TEXTARRAYOID,
                      TEXTARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID};
  const Oid mark[] = {INT4ARRAYOID,        TEXTARRAYOID, stored,      fresh,
                      TIMESTAMPTZARRAYOID, TEXTARRAYOID, TEXTARRAYOID};
  const Oid load[] = {INT4ARRAYOID, TEXTARRAYOID, BOOLARRAYOID};
  const Oid learn[] = {INT4ARRAYOID, TEXTARRAYOID, stored, TIMESTAMPTZARRAYOID};
  const Oid cursor[] = {TEXTOID};
  TokenTableStatements* statements = static_cast<TokenTableStatements*>(palloc0(sizeof(TokenTableStatements)));
  statements->table = table;
  SetStatement(&statements->load, LoadSql(*table), lengthof(load), load);
  SetStatement(&statements->save, SaveSql(*table), lengthof(save), save);
  SetStatement(&statements->mark, MarkSql(*table), lengthof(mark), mark);
  SetStatement(&statements->learn, LearnSql(*table), lengthof(learn), learn);
  SetStatement(&statements->scan_first, ScanSql(*table, false, kScanBatch), 0, cursor);
  SetStatement(&statements->scan_next, ScanSql(*table, true, kScanBatch), lengthof(cursor), cursor);
  SetStatement(&statements->scan_row, ScanRowSql(*table), lengthof(cursor), cursor);
  SetStatement(&statements->keys_first, ScanKeysSql(*table, false, kScanBatch), 0, cursor);
  SetStatement(&statements->keys_next, ScanKeysSql(*table, true, kScanBatch), lengthof(cursor), cursor);
  SetStatement(&statements->existing, ExistingSql(*table), lengthof(keys), keys);
  SetStatement(&statements->stored, StoredSql(*table), lengthof(keys), keys);
  SetStatement(&statements->read, ReadSql(*table), lengthof(cursor), cursor);
  return statements;
}

void Release(Statement* statement) {
  if (statement->plan != nullptr) SPI_freeplan(statement->plan);
  statement->plan = nullptr;
}

}  // namespace

uint64 Execute(Statement* statement, Datum* values, bool read_only, const char* nulls) {
  if (statement->plan == nullptr) {
    SPIPlanPtr plan = SPI_prepare(statement->sql, statement->arguments, statement->types);
    if (plan == nullptr) elog(ERROR, "token_refresh: SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
    SPI_keepplan(plan);
    statement->plan = plan;
  }
  int result = SPI_execute_plan(statement->plan, values, nulls, read_only, 0);
  if (result < 0) elog(ERROR, "token_refresh: a statement failed: %s", SPI_result_code_string(result));
  return SPI_processed;
}

int ResultNumber(uint64 row, int count) {
  bool is_null;
  const int number = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &is_null));
  if (is_null || number < 0 || number >= count) elog(ERROR, "token_refresh: a statement gives a row that it was not given");
  return number;
}

TokenTableStatements* StatementsFor(int32_t token_table) {
  TokenTable* table = GetTokenTable(token_table);
  if (table->trouble != nullptr)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("%s", table->trouble)));
  if (table->statements == nullptr) {
    MemoryContext previous = MemoryContextSwitchTo(table->context);
    table->statements = Make(table);
    MemoryContextSwitchTo(previous);
  }
  return table->statements;
}

void ReleaseStatements(TokenTableStatements* statements) {
  Release(&statements->load);
  Release(&statements->save);
  Release(&statements->mark);
  Release(&statements->learn);
  Release(&statements->scan_first);
  Release(&statements->scan_next);
  Release(&statements->scan_row);
  Release(&statements->keys_first);
  Release(&statements->keys_next);
  Release(&statements->existing);
  Release(&statements->stored);
  Release(&statements->read);
}

}  // namespace token_refresh
