// The parts of a sweep that look for rows which are gone: those with which something could be lost are kept without a
// key until a whole sweep has not found them elsewhere.
#include "pg/spi_arrays.h"
#include "pg/table_scope.h"
#include "pg/table_sweep.h"

namespace token_refresh {

namespace {

// Rows of the schedule that are looked at in one transaction.
constexpr int kScheduleBatch = 1000;

Statement read_scheduled = {
    "SELECT s.id, s.row_key, s.generation FROM token_refresh.schedule s WHERE s.token_table = $1 AND s.id > $2"
    " AND s.row_key IS NOT NULL ORDER BY s.id LIMIT $3",
    3,
    {INT4OID, INT8OID, INT4OID},
    nullptr};

constexpr int kCleanUpBatch = 10000;

Statement clean_up = {
    "WITH gone AS (DELETE FROM token_refresh.schedule WHERE id IN (SELECT s.id FROM token_refresh.schedule s"
    "  WHERE s.token_table = $1 AND s.row_key IS NULL AND (s.missed_at IS NULL OR s.missed_at < $2) LIMIT $3"
    "  FOR UPDATE SKIP LOCKED) RETURNING id, provider, subject, label),"
    " lost AS (DELETE FROM token_refresh.parked_result p USING gone WHERE p.schedule_id = gone.id"
    "  RETURNING p.token_table, p.row_key, gone.provider, gone.subject, gone.label),"
    " noted AS (INSERT INTO token_refresh.audit_event"
    "  (event, provider, token_table, row_key, subject, label, message, actor)"
    "  SELECT 'superseded', p.name, l.token_table, l.row_key, l.subject, l.label, 'the row is gone', 'refresher'"
    "  FROM lost l LEFT JOIN token_refresh.provider p ON p.id = l.provider)"
    " SELECT FROM gone",
    3,
    {INT4OID, TIMESTAMPTZOID, INT4OID},
    nullptr};

// What is parked for rows that nobody knows.
Statement delete_parked = {
    "DELETE FROM token_refresh.parked_result p WHERE p.token_table = $1 AND NOT EXISTS"
    " (SELECT FROM token_refresh.schedule s WHERE s.id = p.schedule_id)",
    1,
    {INT4OID},
    nullptr};

// Those for which something is in flight or parked. Whose token row has come back meanwhile, or has been found under
// another key, is not as it was read.
Statement miss_scheduled = {
    "WITH gone AS (SELECT s.id, coalesce(p.replaces, k.digest) AS digest FROM unnest($1, $2, $3, $4)"
    "  AS k(id, key, generation, digest)"
    "  JOIN token_refresh.schedule s ON s.id = k.id AND s.row_key = k.key AND s.generation = k.generation"
    "  LEFT JOIN token_refresh.parked_result p ON p.schedule_id = k.id"
    "  WHERE p.schedule_id IS NOT NULL OR k.digest IS NOT NULL FOR UPDATE OF s SKIP LOCKED)"
    " UPDATE token_refresh.schedule s SET row_key = NULL, due_at = NULL, settling = false, departed_with = gone.digest,"
    " departed_access = NULL, departed_key = s.row_key, departed_by = NULL, missed_at = clock_timestamp()"
    " FROM gone WHERE s.id = gone.id",
    4,
    {INT8ARRAYOID, TEXTARRAYOID, INT8ARRAYOID, BYTEAARRAYOID},
    nullptr};

// The others; not those that miss_scheduled has just found locked.
Statement delete_scheduled = {
    "DELETE FROM token_refresh.schedule WHERE id IN (SELECT s.id FROM token_refresh.schedule s"
    " JOIN unnest($1, $2, $3, $4) AS k(id, key, generation, digest)"
    " ON s.id = k.id AND s.row_key = k.key AND s.generation = k.generation WHERE k.digest IS NULL"
    " AND NOT EXISTS (SELECT FROM token_refresh.parked_result p WHERE p.schedule_id = s.id)"
    " FOR UPDATE OF s SKIP LOCKED)",
    4,
    {INT8ARRAYOID, TEXTARRAYOID, INT8ARRAYOID, BYTEAARRAYOID},
    nullptr};

// A row of the schedule as it was read.
struct Scheduled {
  int64_t id;
  int64_t generation;
  char* key;
};

// Sets exists[i] for the rows that are there.
void FindExisting(TokenTableStatements* statements, const Scheduled* rows, int count, bool* exists) {
  Datum values[] = {MakeArray(count, INT4OID, [](int i, bool*) { return Int32GetDatum(i); }),
                    MakeArray(count, TEXTOID, [&](int i, bool*) { return CStringGetTextDatum(rows[i].key); })};
  uint64 found = Execute(&statements->existing, values, true);
  for (uint64 i = 0; i < found; i++) exists[ResultNumber(i, count)] = true;
}

void LoseKeys(const Scheduled* rows, int count, std::span<const InFlightToken> in_flight) {
  auto digest = [&](int i, bool* is_null) {
    for (const InFlightToken& token : in_flight)
      if (token.schedule_id == rows[i].id) return BytesDatum({token.digest, sizeof(token.digest)});
    *is_null = true;
    return static_cast<Datum>(0);
  };
  Datum values[] = {MakeArray(count, INT8OID, [&](int i, bool*) { return Int64GetDatum(rows[i].id); }),
                    MakeArray(count, TEXTOID, [&](int i, bool*) { return CStringGetTextDatum(rows[i].key); }),
                    MakeArray(count, INT8OID, [&](int i, bool*) { return Int64GetDatum(rows[i].generation); }),
                    MakeArray(count, BYTEAOID, digest)};
  Execute(&miss_scheduled, values, false);
  Execute(&delete_scheduled, values, false);
}

}  // namespace

char* FindMissingBatch(TokenTableStatements* statements, const char* cursor, std::span<const InFlightToken> in_flight) {
  const TokenTable& table = *statements->table;
  // What cannot be seen may be there. What is really deleted the trigger tells.
  if (table.hides_rows) return nullptr;
  Datum values[] = {Int32GetDatum(table.id), Int64GetDatum(cursor == nullptr ? 0 : pg_strtoint64(cursor)),
                    Int32GetDatum(kScheduleBatch)};
  const int count = static_cast<int>(Execute(&read_scheduled, values, true));
  if (count == 0) return nullptr;
  Scheduled* rows = static_cast<Scheduled*>(palloc(sizeof(Scheduled) * count));
  bool* exists = static_cast<bool*>(palloc0(sizeof(bool) * count));
  for (int i = 0; i < count; i++) {
    bool is_null;
    rows[i].id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null));
    rows[i].key = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2);
    rows[i].generation = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 3, &is_null));
  }
  TableError error = {};
  if (table.built_in)
    FindExisting(statements, rows, count, exists);
  else if (!TryOnTable(table, &error, [&] { FindExisting(statements, rows, count, exists); }))
    ereport(ERROR, (errcode(error.sqlstate), errmsg("%s", error.message)));
  const int64_t last = rows[count - 1].id;
  int gone = 0;
  for (int i = 0; i < count; i++)
    if (!exists[i]) rows[gone++] = rows[i];
  if (gone > 0) LoseKeys(rows, gone, in_flight);
  return psprintf(INT64_FORMAT, last);
}

bool CleanUpBatch(int32_t token_table, Micros began_at, bool table_is_empty, bool left_out) {
  Datum of_missed[] = {Int32GetDatum(token_table),
                       TimestampTzGetDatum(left_out ? DT_NOBEGIN : ToTimestamp(began_at)),
                       Int32GetDatum(kCleanUpBatch)};
  if (Execute(&clean_up, of_missed, false) == kCleanUpBatch) return false;
  Datum of_table[] = {Int32GetDatum(token_table)};
  if (!table_is_empty) Execute(&delete_parked, of_table, false);
  return true;
}

}  // namespace token_refresh
