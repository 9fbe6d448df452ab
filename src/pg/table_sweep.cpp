#include "pg/table_sweep.h"

#include <cstdlib>

#include "pg/schedule_plan.h"
#include "pg/spi_arrays.h"
#include "pg/table_scope.h"

namespace token_refresh {

namespace {

// Rows of the schedule that are looked at in one transaction.
constexpr int kScheduleBatch = 1000;

// What the schedule knows of the rows of a batch, as of the snapshot that they were read with.
Statement read_known = {
    "SELECT k.n, s.expires_at, s.left_alone, s.provider, EXISTS (SELECT FROM token_refresh.parked_result p"
    "  WHERE p.token_table = s.token_table AND p.row_key = s.row_key),"
    " s.generation, s.status IN ('needs_reauth', 'disconnected'),"
    " s.status = 'disconnected'"
    " FROM unnest($2, $3) AS k(n, key) JOIN token_refresh.schedule s ON s.token_table = $1 AND s.row_key = k.key",
    3,
    {INT4OID, INT4ARRAYOID, TEXTARRAYOID},
    nullptr};

// Those that can be planned now: somebody else is at the others, and the sweep must not wait for him.
Statement lock_free = {
    "SELECT k.n FROM unnest($2, $3) AS k(n, key) JOIN token_refresh.schedule s ON s.token_table = $1"
    " AND s.row_key = k.key ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED",
    3,
    {INT4OID, INT4ARRAYOID, TEXTARRAYOID},
    nullptr};

Statement read_scheduled = {
    "SELECT s.id, s.row_key, s.generation FROM token_refresh.schedule s WHERE s.token_table = $1 AND s.id > $2"
    " ORDER BY s.id LIMIT $3",
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

// Whose token row has come back meanwhile has another generation.
Statement delete_scheduled = {
    "DELETE FROM token_refresh.schedule WHERE id IN (SELECT s.id FROM token_refresh.schedule s JOIN unnest($1, $2)"
    " AS k(id, generation) ON s.id = k.id AND s.generation = k.generation FOR UPDATE OF s SKIP LOCKED)",
    2,
    {INT8ARRAYOID, INT8ARRAYOID},
    nullptr};

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

// The rows of one batch, and what of them is to be planned.
struct Batch {
  const TokenTable* table;
  PlannedRow* rows;
  KnownSchedule* known;
  bool* news;
  int count;
};

// The next rows in the order of the key.
int Scan(TokenTableStatements* statements, const char* cursor, MemoryContext context, PlannedRow** rows) {
  Datum start[] = {CStringGetTextDatum(cursor)};
  uint64 count = cursor[0] == '\0' ? Execute(&statements->scan_first, nullptr, true)
                                   : Execute(&statements->scan_next, start, true);
  MemoryContext previous = MemoryContextSwitchTo(context);
  *rows = static_cast<PlannedRow*>(palloc(sizeof(PlannedRow) * (count + 1)));
  for (uint64 i = 0; i < count; i++) ReadScanned(*statements->table, SPI_tuptable->vals[i], &(*rows)[i]);
  MemoryContextSwitchTo(previous);
  return static_cast<int>(count);
}

void ScanBatch(TokenTableStatements* statements, const char* cursor, Batch* batch) {
  volatile int count = 0;
  PlannedRow* rows = nullptr;
  TableError error = {};
  MemoryContext context = CurrentMemoryContext;
  batch->table = statements->table;
  if (statements->table->built_in)
    count = Scan(statements, cursor, context, &rows);
  else if (!TryOnTable(*statements->table, &error, [&] { count = Scan(statements, cursor, context, &rows); }))
    ereport(ERROR, (errcode(error.sqlstate), errmsg("%s", error.message)));
  batch->rows = rows;
  batch->count = count;
  batch->known = static_cast<KnownSchedule*>(palloc0(sizeof(KnownSchedule) * (count + 1)));
  batch->news = static_cast<bool*>(palloc0(sizeof(bool) * (count + 1)));
}

// What is news is what the schedule does not know, or knows otherwise.
void FindNews(Batch* batch) {
  Datum values[] = {Int32GetDatum(batch->table->id),
                    MakeArray(batch->count, INT4OID, [](int i, bool*) { return Int32GetDatum(i); }),
                    MakeArray(batch->count, TEXTOID,
                              [&](int i, bool*) { return CStringGetTextDatum(batch->rows[i].row_key); })};
  for (int i = 0; i < batch->count; i++) batch->news[i] = true;
  uint64 found = Execute(&read_known, values, true);
  for (uint64 i = 0; i < found; i++) {
    HeapTuple tuple = SPI_tuptable->vals[i];
    TupleDesc desc = SPI_tuptable->tupdesc;
    bool is_null;
    const int n = DatumGetInt32(SPI_getbinval(tuple, desc, 1, &is_null));
    const PlannedRow& row = batch->rows[n];
    KnownSchedule* known = &batch->known[n];
    known->exists = true;
    known->expires = GetTime(tuple, 2, &known->expires_at);
    known->generation = DatumGetInt64(SPI_getbinval(tuple, desc, 6, &is_null));
    known->dead = DatumGetBool(SPI_getbinval(tuple, desc, 7, &is_null));
    const bool same_expiry = known->expires == row.expires &&
                             (!row.expires || std::abs(known->expires_at - row.expires_at) < kSameExpiry);
    const bool left_alone = DatumGetBool(SPI_getbinval(tuple, desc, 3, &is_null));
    const bool provider_known = DatumGetInt32(SPI_getbinval(tuple, desc, 4, &is_null)) != kUnknownProvider;
    const bool parked = DatumGetBool(SPI_getbinval(tuple, desc, 5, &is_null));
    // Only the application says that it is over, or that it is not.
    const bool disconnected = DatumGetBool(SPI_getbinval(tuple, desc, 8, &is_null));
    batch->news[n] = !(parked || same_expiry) || left_alone != row.left_alone || !provider_known ||
                     disconnected != (row.status == kDisconnected);
  }
}

// Locks the schedule's rows of the news, and leaves out what somebody else has locked. Returns how many.
int LeaveOutLocked(Batch* batch) {
  int* news = static_cast<int*>(palloc(sizeof(int) * (batch->count + 1)));
  int count = 0;
  for (int i = 0; i < batch->count; i++)
    if (batch->news[i] && batch->known[i].exists) news[count++] = i;
  if (count == 0) return 0;
  Datum values[] = {Int32GetDatum(batch->table->id),
                    MakeArray(count, INT4OID, [&](int i, bool*) { return Int32GetDatum(news[i]); }),
                    MakeArray(count, TEXTOID,
                              [&](int i, bool*) { return CStringGetTextDatum(batch->rows[news[i]].row_key); })};
  for (int i = 0; i < count; i++) batch->news[news[i]] = false;
  uint64 locked = Execute(&lock_free, values, false);
  bool is_null;
  for (uint64 i = 0; i < locked; i++)
    batch->news[DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null))] = true;
  return count - static_cast<int>(locked);
}

// Plans a row in a subtransaction. Returns the SQLSTATE of what went wrong, when nothing of it is left; 0: nothing.
int TryPlan(const Batch& batch, int i) {
  volatile int sqlstate = 0;
  MemoryContext context = CurrentMemoryContext;
  ResourceOwner owner = CurrentResourceOwner;
  BeginInternalSubTransaction(nullptr);
  MemoryContextSwitchTo(context);
  PG_TRY();
  {
    PlanReadRow(batch.rows[i], batch.known[i]);
    ReleaseCurrentSubTransaction();
  }
  PG_CATCH();
  {
    sqlstate = geterrcode();
    MemoryContextSwitchTo(context);
    FlushErrorState();
    RollbackAndReleaseCurrentSubTransaction();
  }
  PG_END_TRY();
  MemoryContextSwitchTo(context);
  CurrentResourceOwner = owner;
  return sqlstate;
}

void PlanNews(const Batch& batch, bool one_by_one, SweptBatch* swept) {
  for (int i = 0; i < batch.count; i++) {
    if (!batch.news[i]) continue;
    if (!one_by_one) {
      PlanReadRow(batch.rows[i], batch.known[i]);
      continue;
    }
    const int sqlstate = TryPlan(batch, i);
    if (sqlstate == ERRCODE_LOCK_NOT_AVAILABLE)
      swept->locked = true;
    else if (sqlstate != 0)
      swept->failed_sqlstate = sqlstate;
  }
}

}  // namespace

void ReconcileBatch(TokenTableStatements* statements, const char* cursor, bool one_by_one, SweptBatch* swept) {
  Batch batch = {};
  *swept = {};
  ScanBatch(statements, cursor, &batch);
  if (batch.count == 0) return;
  FindNews(&batch);
  swept->locked = LeaveOutLocked(&batch) > 0;
  PlanNews(batch, one_by_one, swept);
  swept->last = batch.rows[batch.count - 1].row_key;
}

namespace {

// Sets exists[i] for the rows that are there.
void FindExisting(TokenTableStatements* statements, char* const* keys, int count, bool* exists) {
  Datum values[] = {MakeArray(count, INT4OID, [](int i, bool*) { return Int32GetDatum(i); }),
                    MakeArray(count, TEXTOID, [&](int i, bool*) { return CStringGetTextDatum(keys[i]); })};
  uint64 found = Execute(&statements->existing, values, true);
  bool is_null;
  for (uint64 i = 0; i < found; i++)
    exists[DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null))] = true;
}

}  // namespace

char* DropOrphansBatch(TokenTableStatements* statements, const char* cursor, bool table_is_empty) {
  const TokenTable& table = *statements->table;
  Datum values[] = {Int32GetDatum(table.id), Int64GetDatum(cursor[0] == '\0' ? 0 : pg_strtoint64(cursor)),
                    Int32GetDatum(kScheduleBatch)};
  const int count = static_cast<int>(Execute(&read_scheduled, values, true));
  Datum of_table[] = {Int32GetDatum(table.id)};
  if (count == 0 && !table_is_empty) Execute(&delete_parked, of_table, false);
  if (count == 0) return nullptr;
  int64_t* ids = static_cast<int64_t*>(palloc(sizeof(int64_t) * count));
  int64_t* generations = static_cast<int64_t*>(palloc(sizeof(int64_t) * count));
  char** keys = static_cast<char**>(palloc(sizeof(char*) * count));
  bool* exists = static_cast<bool*>(palloc0(sizeof(bool) * count));
  for (int i = 0; i < count; i++) {
    bool is_null;
    ids[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null));
    keys[i] = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2);
    generations[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 3, &is_null));
  }
  TableError error = {};
  if (table.built_in)
    FindExisting(statements, keys, count, exists);
  else if (!TryOnTable(table, &error, [&] { FindExisting(statements, keys, count, exists); }))
    ereport(ERROR, (errcode(error.sqlstate), errmsg("%s", error.message)));
  const int64_t last = ids[count - 1];
  int gone = 0;
  for (int i = 0; i < count; i++) {
    if (exists[i]) continue;
    ids[gone] = ids[i];
    generations[gone++] = generations[i];
  }
  Datum orphans[] = {MakeArray(gone, INT8OID, [&](int i, bool*) { return Int64GetDatum(ids[i]); }),
                     MakeArray(gone, INT8OID, [&](int i, bool*) { return Int64GetDatum(generations[i]); })};
  if (gone > 0) Execute(&delete_scheduled, orphans, false);
  return psprintf(INT64_FORMAT, last);
}

}  // namespace token_refresh
