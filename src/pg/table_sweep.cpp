#include "pg/table_sweep.h"

#include "pg/feed.h"
#include "pg/spi_arrays.h"
#include "pg/table_scope.h"

namespace token_refresh {

namespace {

// Rows of the schedule that are looked at in one transaction.
constexpr int kScheduleBatch = 1000;

// What the schedule knows of the rows of a batch.
Statement read_known = {
    "SELECT k.n, s.expires_at, s.left_alone, s.provider, EXISTS (SELECT FROM token_refresh.parked_result p"
    "  WHERE p.token_table = s.token_table AND p.row_key = s.row_key)"
    " FROM unnest($2, $3) AS k(n, key) JOIN token_refresh.schedule s ON s.token_table = $1 AND s.row_key = k.key",
    3,
    {INT4OID, INT4ARRAYOID, TEXTARRAYOID},
    nullptr};

Statement read_scheduled = {
    "SELECT s.id, s.row_key FROM token_refresh.schedule s WHERE s.token_table = $1 AND s.id > $2 ORDER BY s.id LIMIT $3",
    3,
    {INT4OID, INT8OID, INT4OID},
    nullptr};

// What is parked for rows that are gone.
Statement delete_parked = {
    "DELETE FROM token_refresh.parked_result p WHERE p.token_table = $1 AND NOT EXISTS"
    " (SELECT FROM token_refresh.schedule s WHERE s.token_table = p.token_table AND s.row_key = p.row_key)",
    1,
    {INT4OID},
    nullptr};

Statement delete_scheduled = {
    "DELETE FROM token_refresh.schedule WHERE id = ANY ($1)", 1, {INT8ARRAYOID}, nullptr};

// What of a batch is to be planned. Columns with seconds only are as exact as it gets.
constexpr int64_t kSameExpiry = USECS_PER_SEC;

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
  const char* status = SPI_getvalue(tuple, desc, 6);
  row->status = StatusOf(table, status);
  row->issued = GetTime(tuple, 7, &row->issued_at);
  row->expires = GetTime(tuple, 8, &row->expires_at);
  row->refresh_expires = GetTime(tuple, 9, &row->refresh_expires_at);
  row->left_alone = !DatumGetBool(SPI_getbinval(tuple, desc, 10, &is_null));
}

// The next rows in the order of the key.
int Scan(TokenTableStatements* statements, const char* cursor, MemoryContext context, PlannedRow** rows) {
  Datum start[] = {CStringGetTextDatum(cursor)};
  uint64 count = cursor[0] == '\0' ? Execute(&statements->scan_first, nullptr, false)
                                   : Execute(&statements->scan_next, start, false);
  MemoryContext previous = MemoryContextSwitchTo(context);
  *rows = static_cast<PlannedRow*>(palloc(sizeof(PlannedRow) * (count + 1)));
  for (uint64 i = 0; i < count; i++) ReadScanned(*statements->table, SPI_tuptable->vals[i], &(*rows)[i]);
  MemoryContextSwitchTo(previous);
  return static_cast<int>(count);
}

// Sets news[i] for the rows that the schedule does not know, or knows otherwise.
void FindNews(const TokenTable& table, const PlannedRow* rows, int count, bool* news) {
  Datum values[] = {Int32GetDatum(table.id),
                    MakeArray(count, INT4OID, [](int i, bool*) { return Int32GetDatum(i); }),
                    MakeArray(count, TEXTOID, [&](int i, bool*) { return CStringGetTextDatum(rows[i].row_key); })};
  for (int i = 0; i < count; i++) news[i] = true;
  uint64 known = Execute(&read_known, values, false);
  for (uint64 i = 0; i < known; i++) {
    HeapTuple tuple = SPI_tuptable->vals[i];
    TupleDesc desc = SPI_tuptable->tupdesc;
    bool is_null;
    const int n = DatumGetInt32(SPI_getbinval(tuple, desc, 1, &is_null));
    TimestampTz expires_at;
    const bool expires = GetTime(tuple, 2, &expires_at);
    const bool same_expiry = expires == rows[n].expires &&
                             (!expires || Abs(expires_at - rows[n].expires_at) < kSameExpiry);
    const bool left_alone = DatumGetBool(SPI_getbinval(tuple, desc, 3, &is_null));
    const bool provider_known = DatumGetInt32(SPI_getbinval(tuple, desc, 4, &is_null)) != kUnknownProvider;
    const bool parked = DatumGetBool(SPI_getbinval(tuple, desc, 5, &is_null));
    news[n] = !(parked || same_expiry) || left_alone != rows[n].left_alone || !provider_known;
  }
}

}  // namespace

char* ReconcileBatch(TokenTableStatements* statements, const char* cursor) {
  PlannedRow* rows = nullptr;
  volatile int count = 0;
  TableError error = {};
  MemoryContext context = CurrentMemoryContext;
  if (statements->table->built_in)
    count = Scan(statements, cursor, context, &rows);
  else if (!TryOnTable(*statements->table, &error, [&] { count = Scan(statements, cursor, context, &rows); }))
    ereport(ERROR, (errcode(error.sqlstate), errmsg("%s", error.message)));
  bool* news = static_cast<bool*>(palloc(sizeof(bool) * (count + 1)));
  if (count > 0) FindNews(*statements->table, rows, count, news);
  for (int i = 0; i < count; i++)
    if (news[i]) PlanRow(rows[i]);
  return count == 0 ? nullptr : rows[count - 1].row_key;
}

namespace {

// Sets exists[i] for the rows that are there.
void FindExisting(TokenTableStatements* statements, char* const* keys, int count, bool* exists) {
  Datum values[] = {MakeArray(count, INT4OID, [](int i, bool*) { return Int32GetDatum(i); }),
                    MakeArray(count, TEXTOID, [&](int i, bool*) { return CStringGetTextDatum(keys[i]); })};
  uint64 found = Execute(&statements->existing, values, false);
  bool is_null;
  for (uint64 i = 0; i < found; i++)
    exists[DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null))] = true;
}

}  // namespace

char* DropOrphansBatch(TokenTableStatements* statements, const char* cursor) {
  const TokenTable& table = *statements->table;
  Datum values[] = {Int32GetDatum(table.id), Int64GetDatum(cursor[0] == '\0' ? 0 : pg_strtoint64(cursor)),
                    Int32GetDatum(kScheduleBatch)};
  const int count = static_cast<int>(Execute(&read_scheduled, values, false));
  Datum of_table[] = {Int32GetDatum(table.id)};
  if (count == 0) Execute(&delete_parked, of_table, false);
  if (count == 0) return nullptr;
  int64_t* ids = static_cast<int64_t*>(palloc(sizeof(int64_t) * count));
  char** keys = static_cast<char**>(palloc(sizeof(char*) * count));
  bool* exists = static_cast<bool*>(palloc0(sizeof(bool) * count));
  for (int i = 0; i < count; i++) {
    bool is_null;
    ids[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null));
    keys[i] = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2);
  }
  TableError error = {};
  if (table.built_in)
    FindExisting(statements, keys, count, exists);
  else if (!TryOnTable(table, &error, [&] { FindExisting(statements, keys, count, exists); }))
    ereport(ERROR, (errcode(error.sqlstate), errmsg("%s", error.message)));
  int gone = 0;
  const int64_t last = ids[count - 1];
  for (int i = 0; i < count; i++)
    if (!exists[i]) ids[gone++] = ids[i];
  Datum orphans[] = {MakeArray(gone, INT8OID, [&](int i, bool*) { return Int64GetDatum(ids[i]); })};
  if (gone > 0) Execute(&delete_scheduled, orphans, false);
  return psprintf(INT64_FORMAT, last);
}

}  // namespace token_refresh
