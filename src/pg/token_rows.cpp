#include "pg/token_rows.h"

#include "pg/spi_arrays.h"
#include "pg/statements.h"
#include "pg/table_scope.h"
#include "pg/table_suspension.h"

namespace token_refresh {

namespace {

// How long a batch that failed may go on row by row.
constexpr Micros kRowByRowBudget = kSecond;

Micros Now() { return FromTimestamp(GetCurrentTimestamp()); }

char* CopyText(HeapTuple tuple, int column) {
  bool is_null;
  Datum value = SPI_getbinval(tuple, SPI_tuptable->tupdesc, column, &is_null);
  return is_null ? nullptr : TextDatumGetCString(value);
}

void ReadRow(const TokenTable& table, HeapTuple tuple, TokenRow* row) {
  bool is_null;
  row->found = true;
  row->subject = CopyText(tuple, 2);
  row->label = CopyText(tuple, 3);
  Datum stored = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 4, &is_null);
  row->stored = is_null ? nullptr : PG_DETOAST_DATUM_COPY(stored);
  row->opened = CopyText(tuple, 5);
  row->filter_holds = DatumGetBool(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 6, &is_null));
  row->status = StatusOf(table, CopyText(tuple, 7));
}

// which: indices into row_keys and rows.
void Read(TokenTableStatements* statements, const char* const* row_keys, const int* which, int count,
          MemoryContext context, TokenRow* rows) {
  Datum values[] = {MakeArray(count, INT4OID, [&](int i, bool*) { return Int32GetDatum(which[i]); }),
                    MakeArray(count, TEXTOID, [&](int i, bool*) { return CStringGetTextDatum(row_keys[which[i]]); })};
  uint64 found = Execute(&statements->load, values, false);
  MemoryContext previous = MemoryContextSwitchTo(context);
  for (uint64 i = 0; i < found; i++) {
    bool is_null;
    HeapTuple tuple = SPI_tuptable->vals[i];
    ReadRow(*statements->table, tuple, &rows[DatumGetInt32(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &is_null))]);
  }
  MemoryContextSwitchTo(previous);
}

void SetAll(const TokenRow& row, const int* which, int count, TokenRow* rows) {
  for (int i = 0; i < count; i++) rows[which[i]] = row;
}

void SetTrouble(const char* trouble, const int* which, int count, TokenRow* rows) {
  TokenRow row = {};
  row.trouble = trouble;
  SetAll(row, which, count, rows);
}

void SetLocked(const int* which, int count, TokenRow* rows) {
  TokenRow row = {};
  row.locked = true;
  SetAll(row, which, count, rows);
}

// What the owner's own code says may quote a token.
const char* Describe(const TableError& error, MemoryContext context) {
  return MemoryContextStrdup(context, psprintf("reading the row fails with SQLSTATE %s",
                                               unpack_sql_state(error.sqlstate)));
}

// False, with the reason set, when reading failed. *one_by_one: it may be a single row's fault.
bool TryRead(TokenTableStatements* statements, const char* const* row_keys, const int* which, int count,
             MemoryContext context, TokenRow* rows, bool* one_by_one) {
  TokenTable* table = statements->table;
  TableError error = {};
  *one_by_one = false;
  if (TryOnTable(*table, &error, [&] { Read(statements, row_keys, which, count, context, rows); })) return true;
  if (error.sqlstate == ERRCODE_LOCK_NOT_AVAILABLE) {
    SetLocked(which, count, rows);
    return false;
  }
  SetTrouble(Describe(error, context), which, count, rows);
  *one_by_one = error.sqlstate != ERRCODE_QUERY_CANCELED;
  if (!*one_by_one) Suspend(table->id, Now());
  return false;
}

}  // namespace

void ReadTokenRows(TokenTable* table, const char* const* row_keys, int count, MemoryContext context, TokenRow* rows) {
  int* all = static_cast<int*>(palloc(sizeof(int) * Max(count, 1)));
  for (int i = 0; i < count; i++) all[i] = i;
  if (table->locked) return SetLocked(all, count, rows);
  if (table->trouble != nullptr) return SetTrouble(MemoryContextStrdup(context, table->trouble), all, count, rows);
  if (IsSuspended(table->id, Now())) return SetTrouble(kSuspendedMessage, all, count, rows);
  TokenTableStatements* statements = StatementsFor(table->id);
  // The extension's own table runs nobody's code.
  if (table->built_in) return Read(statements, row_keys, all, count, context, rows);
  bool one_by_one;
  if (TryRead(statements, row_keys, all, count, context, rows, &one_by_one) || count == 1) return;
  const Micros until = Now() + kRowByRowBudget;
  for (int i = 0; i < count && one_by_one && Now() < until; i++) {
    bool alone;
    TryRead(statements, row_keys, &all[i], 1, context, rows, &alone);
    one_by_one = !IsSuspended(table->id, Now());
  }
}

void WipeOpened(TokenRow* rows, int count) {
  for (int i = 0; i < count; i++)
    if (rows[i].opened != nullptr) explicit_bzero(rows[i].opened, strlen(rows[i].opened));
}

}  // namespace token_refresh
