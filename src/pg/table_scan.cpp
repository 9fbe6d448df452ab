#include "pg/table_scan.h"

#include "pg/table_key_sql.h"
#include "pg/table_scope.h"
#include "pg/table_suspension.h"

namespace token_refresh {

namespace {

// How long a batch may go on row by row.
constexpr Micros kRowByRowBudget = kSecond;

Micros Now() { return FromTimestamp(GetCurrentTimestamp()); }

bool GetTime(HeapTuple tuple, int column, TimestampTz* time) {
  bool is_null;
  Datum value = SPI_getbinval(tuple, SPI_tuptable->tupdesc, column, &is_null);
  *time = is_null ? 0 : DatumGetTimestampTz(value);
  return !is_null;
}

void ReadScanned(const TokenTable& table, HeapTuple tuple, PlannedRow* row) {
  TupleDesc desc = SPI_tuptable->tupdesc;
  bool is_null;
  *row = {};
  row->table = &table;
  row->row_key = SPI_getvalue(tuple, desc, 1);
  row->provider = SPI_getvalue(tuple, desc, 2);
  row->subject = SPI_getvalue(tuple, desc, 3);
  row->label = SPI_getvalue(tuple, desc, 4);
  row->has_refresh_token = DatumGetBool(SPI_getbinval(tuple, desc, 5, &is_null));
  row->status = StatusOf(table, SPI_getvalue(tuple, desc, 6));
  row->issued = GetTime(tuple, 7, &row->issued_at);
  row->expires = GetTime(tuple, 8, &row->expires_at);
  row->refresh_expires = GetTime(tuple, 9, &row->refresh_expires_at);
  row->left_alone = !DatumGetBool(SPI_getbinval(tuple, desc, 10, &is_null));
}

uint64 ExecuteFrom(Statement* first, Statement* next, const char* cursor) {
  if (cursor == nullptr) return Execute(first, nullptr, true);
  Datum start[] = {CStringGetTextDatum(cursor)};
  return Execute(next, start, true);
}

// What has no key that the schedule can hold is left out, wherever it stands in the batch.
void LeaveOutUnkeyed(ScannedRows* scanned) {
  int kept = 0;
  for (int i = 0; i < scanned->count; i++) {
    const char* row_key = scanned->rows[i].row.row_key;
    if (row_key != nullptr) scanned->last = row_key;
    if (IsUsableKey(row_key)) scanned->rows[kept++] = scanned->rows[i];
  }
  scanned->count = kept;
}

void Allocate(int count, ScannedRows* scanned) {
  scanned->rows = static_cast<ScannedRow*>(palloc0(sizeof(ScannedRow) * (count + 1)));
  scanned->count = count;
}

void ScanBatch(TokenTableStatements* statements, const char* cursor, MemoryContext context, ScannedRows* scanned) {
  const uint64 count = ExecuteFrom(&statements->scan_first, &statements->scan_next, cursor);
  MemoryContext previous = MemoryContextSwitchTo(context);
  Allocate(static_cast<int>(count), scanned);
  for (uint64 i = 0; i < count; i++) ReadScanned(*statements->table, SPI_tuptable->vals[i], &scanned->rows[i].row);
  LeaveOutUnkeyed(scanned);
  MemoryContextSwitchTo(previous);
}

// The keys alone.
void ScanKeys(TokenTableStatements* statements, const char* cursor, MemoryContext context, ScannedRows* scanned) {
  const uint64 count = ExecuteFrom(&statements->keys_first, &statements->keys_next, cursor);
  MemoryContext previous = MemoryContextSwitchTo(context);
  Allocate(static_cast<int>(count), scanned);
  for (uint64 i = 0; i < count; i++) {
    scanned->rows[i].row.table = statements->table;
    scanned->rows[i].row.row_key = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
  }
  LeaveOutUnkeyed(scanned);
  MemoryContextSwitchTo(previous);
}

void ScanRow(TokenTableStatements* statements, MemoryContext context, PlannedRow* row) {
  Datum key[] = {CStringGetTextDatum(row->row_key)};
  if (Execute(&statements->scan_row, key, true) == 0) elog(ERROR, "token_refresh: a row is not found by its key");
  MemoryContext previous = MemoryContextSwitchTo(context);
  ReadScanned(*statements->table, SPI_tuptable->vals[0], row);
  MemoryContextSwitchTo(previous);
}

void RunOnTable(const TokenTable& table, void (*scan)(TokenTableStatements*, const char*, MemoryContext, ScannedRows*),
                TokenTableStatements* statements, const char* cursor, ScannedRows* scanned) {
  MemoryContext context = CurrentMemoryContext;
  TableError error = {};
  if (table.built_in)
    scan(statements, cursor, context, scanned);
  else if (!TryOnTable(table, &error, [&] { scan(statements, cursor, context, scanned); }))
    ereport(ERROR, (errcode(error.sqlstate), errmsg("%s", error.message)));
}

// Which row of the batch it is that cannot be read.
void ScanOneByOne(TokenTableStatements* statements, ScannedRows* scanned) {
  const TokenTable& table = *statements->table;
  MemoryContext context = CurrentMemoryContext;
  const Micros until = Now() + kRowByRowBudget;
  for (int i = 0; i < scanned->count; i++) {
    if (i > 0 && (Now() > until || IsSuspended(table.id, Now()))) {
      scanned->count = i;
      scanned->last = scanned->rows[i - 1].row.row_key;
      return;
    }
    ScannedRow* scanned_row = &scanned->rows[i];
    TableError error = {};
    if (TryOnTable(table, &error, [&] { ScanRow(statements, context, &scanned_row->row); })) continue;
    scanned_row->locked = error.sqlstate == ERRCODE_LOCK_NOT_AVAILABLE;
    if (!scanned_row->locked) scanned_row->trouble = DescribeUnreadable(error);
  }
}

}  // namespace

void ScanRows(TokenTableStatements* statements, const char* cursor, bool one_by_one, ScannedRows* scanned) {
  const TokenTable& table = *statements->table;
  *scanned = {};
  one_by_one = one_by_one && !table.built_in;
  RunOnTable(table, one_by_one ? ScanKeys : ScanBatch, statements, cursor, scanned);
  if (one_by_one) ScanOneByOne(statements, scanned);
}

}  // namespace token_refresh
