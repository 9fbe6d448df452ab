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

struct varlena* CopyStored(HeapTuple tuple, int column) {
  bool is_null;
  Datum value = SPI_getbinval(tuple, SPI_tuptable->tupdesc, column, &is_null);
  return is_null ? nullptr : PG_DETOAST_DATUM_COPY(value);
}

void ReadRow(const TokenTable& table, HeapTuple tuple, TokenRow* row) {
  bool is_null;
  row->found = true;
  row->subject = CopyText(tuple, 2);
  row->label = CopyText(tuple, 3);
  row->stored = CopyStored(tuple, 4);
  if (DatumGetBool(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 8, &is_null))) row->trouble = kTooLongMessage;
  row->opened = CopyText(tuple, 5);
  row->filter_holds = DatumGetBool(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 6, &is_null));
  row->status = StatusOf(table, CopyText(tuple, 7));
  row->captured = CopyText(tuple, 9);
  row->stored_access = CopyStored(tuple, 10);
  row->opened_access = CopyText(tuple, 11);
  row->client_id = CopyText(tuple, 12);
  row->stored_client_secret = CopyStored(tuple, 13);
  Datum refresh_expires_at = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 14, &is_null);
  row->refresh_expires_at = is_null ? 0 : DatumGetTimestampTz(refresh_expires_at);
}

// which: indices into row_keys and rows.
void Read(TokenTableStatements* statements, const char* const* row_keys, const int* which, int count,
          MemoryContext context, TokenRow* rows) {
  Datum values[] = {MakeArray(count, INT4OID, [](int i, bool*) { return Int32GetDatum(i); }),
                    MakeArray(count, TEXTOID, [&](int i, bool*) { return CStringGetTextDatum(row_keys[which[i]]); }),
                    MakeArray(count, BOOLOID, [&](int i, bool*) { return BoolGetDatum(rows[which[i]].access_wanted); })};
  uint64 found = Execute(&statements->load, values, false);
  MemoryContext previous = MemoryContextSwitchTo(context);
  for (uint64 i = 0; i < found; i++)
    ReadRow(*statements->table, SPI_tuptable->vals[i], &rows[which[ResultNumber(i, count)]]);
  MemoryContextSwitchTo(previous);
}

void SetAll(const TokenRow& row, const int* which, int count, TokenRow* rows) {
  for (int i = 0; i < count; i++) {
    const bool access_wanted = rows[which[i]].access_wanted;
    rows[which[i]] = row;
    rows[which[i]].access_wanted = access_wanted;
  }
}

void SetTrouble(const char* trouble, const int* which, int count, TokenRow* rows, Micros until = 0) {
  TokenRow row = {};
  row.trouble = trouble;
  row.trouble_until = until;
  SetAll(row, which, count, rows);
}

void SetLocked(const int* which, int count, TokenRow* rows) {
  TokenRow row = {};
  row.locked = true;
  SetAll(row, which, count, rows);
}

// A row that is not there may be hidden: then nobody knows that it is gone.
void DoubtMissing(const TokenTable& table, const int* which, int count, TokenRow* rows) {
  for (int i = 0; table.hides_rows && i < count; i++)
    if (!rows[which[i]].found) rows[which[i]].trouble = kHiddenMessage;
}

// False, with the reason set, when reading failed. *one_by_one: it may be a single row's fault.
bool TryRead(TokenTableStatements* statements, const char* const* row_keys, const int* which, int count,
             MemoryContext context, TokenRow* rows, bool* one_by_one) {
  TokenTable* table = statements->table;
  TableError error = {};
  *one_by_one = false;
  if (TryOnTable(*table, &error, [&] { Read(statements, row_keys, which, count, context, rows); })) {
    DoubtMissing(*table, which, count, rows);
    return true;
  }
  if (error.sqlstate == ERRCODE_LOCK_NOT_AVAILABLE) {
    SetLocked(which, count, rows);
    return false;
  }
  SetTrouble(MemoryContextStrdup(context, DescribeUnreadable(error)), which, count, rows);
  *one_by_one = error.sqlstate != ERRCODE_QUERY_CANCELED;
  return false;
}

}  // namespace

void ReadTokenRows(TokenTable* table, const char* const* row_keys, int count, MemoryContext context, TokenRow* rows) {
  int* all = static_cast<int*>(palloc(sizeof(int) * Max(count, 1)));
  for (int i = 0; i < count; i++) all[i] = i;
  if (table->locked) return SetLocked(all, count, rows);
  if (table->trouble != nullptr) return SetTrouble(MemoryContextStrdup(context, table->trouble), all, count, rows);
  const Micros suspended_until = SuspendedUntil(table->id, Now());
  if (suspended_until > 0) return SetTrouble(kSuspendedMessage, all, count, rows, suspended_until);
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
    for (char* opened : {rows[i].opened, rows[i].opened_access})
      if (opened != nullptr) explicit_bzero(opened, strlen(opened));
}

}  // namespace token_refresh
