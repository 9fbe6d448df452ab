#include "pg/schedule_moves.h"

#include "pg/catalog.h"
#include "pg/owner_scope.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"
#include "pg/table_scope.h"
#include "pg/wakeup.h"

extern "C" {
#include "access/detoast.h"
#include "utils/fmgrprotos.h"

PG_FUNCTION_INFO_V1(token_refresh_find_restored);
}

namespace token_refresh {

namespace {

// A key is reserved by inserting it, which waits for whoever is at it and keeps the next one waiting, and then
// deleting what has been inserted. Who stands there without being there leaves it.
Statement reserve_key = {
    "INSERT INTO token_refresh.schedule AS s (token_table, row_key, provider) VALUES ($1, $2, 0)"
    " ON CONFLICT (token_table, row_key) DO UPDATE SET row_key = NULL, due_at = NULL, settling = false,"
    " departed_with = (SELECT p.replaces FROM token_refresh.parked_result p WHERE p.schedule_id = s.id),"
    " departed_access = NULL, departed_key = s.row_key, departed_by = NULL, missed_at = clock_timestamp()",
    2,
    {INT4OID, TEXTOID},
    nullptr};

Statement free_key = {"DELETE FROM token_refresh.schedule WHERE token_table = $1 AND row_key = $2", 2,
                      {INT4OID, TEXTOID}, nullptr};

Statement move_key = {
    "WITH moved AS (UPDATE token_refresh.schedule SET row_key = $2 WHERE token_table = $1 AND row_key = $3 RETURNING id)"
    " UPDATE token_refresh.parked_result p SET row_key = $2, retry_at = now() FROM moved WHERE p.schedule_id = moved.id",
    3,
    {INT4OID, TEXTOID, TEXTOID},
    nullptr};

Statement delete_row = {
    "WITH gone AS (DELETE FROM token_refresh.schedule WHERE token_table = $1 AND row_key = $2 RETURNING id)"
    " DELETE FROM token_refresh.parked_result p USING gone WHERE p.schedule_id = gone.id",
    2,
    {INT4OID, TEXTOID},
    nullptr};

Statement leave_behind = {
    "WITH gone AS (UPDATE token_refresh.schedule SET row_key = NULL, due_at = NULL, settling = false,"
    "  departed_with = $3, departed_access = $4, departed_key = row_key, departed_by = pg_current_xact_id(),"
    "  missed_at = NULL"
    "  WHERE token_table = $1 AND row_key = $2 RETURNING id)"
    " SELECT FROM token_refresh.parked_result p JOIN gone ON p.schedule_id = gone.id",
    4,
    {INT4OID, TEXTOID, BYTEAOID, BYTEAOID},
    nullptr};

// What is parked comes first without a row of the schedule when it is restored. The last three: the key and the subject
// of the row, and to which of them a token is bound.
Statement find_heritage = {
    "WITH departed AS (SELECT s.id, s.departed_access IS NOT DISTINCT FROM $3 AS same_access"
    "  FROM token_refresh.schedule s WHERE s.token_table = $1 AND s.departed_with = $2 AND s.row_key IS NULL"
    "  AND (s.departed_by = pg_current_xact_id() OR CASE $6 WHEN 'key' THEN s.departed_key = $4"
    "   WHEN 'subject' THEN s.subject IS NOT DISTINCT FROM $5 ELSE true END)"
    "  LIMIT 1 FOR UPDATE SKIP LOCKED)"
    " SELECT id, true AS scheduled, same_access, false AS elsewhere FROM departed"
    " UNION ALL SELECT p.schedule_id, s.id IS NOT NULL, true, s.row_key IS NOT NULL FROM token_refresh.parked_result p"
    "  LEFT JOIN token_refresh.schedule s ON s.id = p.schedule_id"
    "  WHERE p.token_table = $1 AND p.replaces = $2"
    "  AND (s.id IS NULL AND ($6 = '' OR p.row_key = $4) OR s.row_key IS NOT NULL) LIMIT 1",
    6,
    {INT4OID, BYTEAOID, BYTEAOID, TEXTOID, TEXTOID, TEXTOID},
    nullptr};

Statement take_over = {
    "WITH parked AS (UPDATE token_refresh.parked_result SET row_key = $1, retry_at = now() WHERE schedule_id = $2"
    "  RETURNING schedule_id)"
    " UPDATE token_refresh.schedule SET row_key = $1, departed_with = NULL, departed_access = NULL,"
    " departed_key = NULL, departed_by = NULL, missed_at = NULL WHERE id = $2"
    " RETURNING generation, expires_at, status IN ('needs_reauth', 'disconnected'),"
    " (SELECT count(*) FROM parked)",
    2,
    {TEXTOID, INT8OID},
    nullptr};

Statement restore_id = {
    "UPDATE token_refresh.schedule SET id = $3 WHERE token_table = $1 AND row_key = $2", 3,
    {INT4OID, TEXTOID, INT8OID}, nullptr};

// Where there is no token, that of none.
Datum DigestDatum(bytea* digest) { return digest == nullptr ? BytesDatum("") : PointerGetDatum(digest); }

// To what of its row a stored token is bound; empty: whoever has a copy can use it anyway.
const char* BoundTo(const TokenTable& table) {
  switch (table.cipher) {
    case TableCipher::kNative:
      return "key";
    case TableCipher::kFunctions:
      return "subject";
    default:
      return "";
  }
}

void ReserveKey(int32_t token_table, const char* row_key) {
  Datum values[] = {Int32GetDatum(token_table), CStringGetTextDatum(row_key)};
  Execute(&reserve_key, values, false);
  Execute(&free_key, values, false);
}

// What is parked may be welcome where the row stands now.
void RetrySoon(uint64 parked) {
  if (parked > 0) WakeRefresherAtCommit(GetCurrentTimestamp());
}

void GiveKey(int32_t token_table, const char* row_key, Heritage* heritage) {
  ReserveKey(token_table, row_key);
  Datum values[] = {CStringGetTextDatum(row_key), Int64GetDatum(heritage->schedule_id)};
  if (Execute(&take_over, values, false) == 0) elog(ERROR, "token_refresh: a row of the schedule has vanished");
  HeapTuple tuple = SPI_tuptable->vals[0];
  TupleDesc desc = SPI_tuptable->tupdesc;
  bool is_null, never;
  Datum expires_at = SPI_getbinval(tuple, desc, 2, &never);
  heritage->known.exists = true;
  heritage->known.generation = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &is_null));
  heritage->known.expires = !never;
  heritage->known.expires_at = never ? 0 : DatumGetTimestampTz(expires_at);
  heritage->known.dead = DatumGetBool(SPI_getbinval(tuple, desc, 3, &is_null));
  RetrySoon(DatumGetInt64(SPI_getbinval(tuple, desc, 4, &is_null)));
}

}  // namespace

bytea* DigestOf(Datum stored, bool is_null) {
  if (is_null || toast_raw_datum_size(stored) <= VARHDRSZ) return nullptr;
  return DatumGetByteaP(DirectFunctionCall1(sha256_bytea, stored));
}

void MoveKey(int32_t token_table, const char* old_key, const char* new_key) {
  ReserveKey(token_table, new_key);
  Datum values[] = {Int32GetDatum(token_table), CStringGetTextDatum(new_key), CStringGetTextDatum(old_key)};
  RetrySoon(Execute(&move_key, values, false));
}

void LeaveBehind(int32_t token_table, const char* row_key, const TokenDigests& tokens) {
  Datum values[] = {Int32GetDatum(token_table), CStringGetTextDatum(row_key), DigestDatum(tokens.refresh_token),
                    DigestDatum(tokens.access_token)};
  if (tokens.refresh_token == nullptr)
    Execute(&delete_row, values, false);
  else
    RetrySoon(Execute(&leave_behind, values, false));
}

Heritage TakeOver(const PlannedRow& row, const TokenDigests& tokens) {
  Heritage heritage = {};
  const char* subject = row.subject != nullptr ? row.subject : "";
  Datum values[] = {Int32GetDatum(row.table->id),     DigestDatum(tokens.refresh_token),
                    DigestDatum(tokens.access_token), CStringGetTextDatum(row.row_key),
                    CStringGetTextDatum(subject),     CStringGetTextDatum(BoundTo(*row.table))};
  const char nulls[] = {' ', ' ', ' ', ' ', row.subject != nullptr ? ' ' : 'n', ' ', '\0'};
  if (tokens.refresh_token == nullptr || Execute(&find_heritage, values, false, nulls) == 0) return heritage;
  HeapTuple tuple = SPI_tuptable->vals[0];
  TupleDesc desc = SPI_tuptable->tupdesc;
  bool is_null;
  heritage.elsewhere = DatumGetBool(SPI_getbinval(tuple, desc, 4, &is_null));
  if (heritage.elsewhere) return heritage;
  heritage.schedule_id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &is_null));
  heritage.scheduled = DatumGetBool(SPI_getbinval(tuple, desc, 2, &is_null));
  heritage.same_access_token = DatumGetBool(SPI_getbinval(tuple, desc, 3, &is_null));
  if (heritage.scheduled) GiveKey(row.table->id, row.row_key, &heritage);
  return heritage;
}

Unchanged UnchangedAfter(const Heritage& heritage, const TokenTable& table) {
  if (!heritage.scheduled) return {};
  return {.verdict = !Has(table, kColumnStatus), .refresh_token = true, .tokens = heritage.same_access_token};
}

namespace {

// Whether the row holds the refresh token that the parked result replaces.
bool HoldsReplaced(int32_t token_table, const char* row_key, bytea* replaces) {
  TokenTable* table = FindTokenTable(token_table);
  if (table == nullptr || table->trouble != nullptr) return false;
  bool same = false;
  TableError error = {};
  TokenTableStatements* statements = StatementsFor(token_table);
  auto compare = [&] {
    Datum values[] = {MakeArray(1, INT4OID, [](int, bool*) { return Int32GetDatum(0); }),
                      MakeArray(1, TEXTOID, [&](int, bool*) { return CStringGetTextDatum(row_key); })};
    bool is_null;
    if (Execute(&statements->stored, values, false) == 0) return;
    Datum stored = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &is_null);
    bytea* digest = DigestOf(stored, is_null);
    same = digest != nullptr && DatumGetBool(DirectFunctionCall2(byteaeq, PointerGetDatum(digest), PointerGetDatum(replaces)));
  };
  if (table->built_in)
    compare();
  else if (!TryOnTable(*table, &error, compare))
    same = false;
  RaiseIfCanceled(error);
  return same;
}

void FindRestored(int64_t schedule_id, int32_t token_table, const char* row_key, bytea* replaces) {
  ScheduleRow row;
  Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
  const bool lost = !FetchScheduleById(schedule_id, snapshot, &row) && FetchSchedule(token_table, row_key, snapshot, &row);
  UnregisterSnapshot(snapshot);
  if (!lost) return;
  OwnerScope scope;
  EnterOwnerScope(&scope);
  if (HoldsReplaced(token_table, row_key, replaces)) {
    Datum values[] = {Int32GetDatum(token_table), CStringGetTextDatum(row_key), Int64GetDatum(schedule_id)};
    Execute(&restore_id, values, false);
  }
  LeaveOwnerScope(&scope);
}

}  // namespace

}  // namespace token_refresh

extern "C" Datum token_refresh_find_restored(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  if (!CALLED_AS_TRIGGER(fcinfo)) elog(ERROR, "token_refresh: not called as a trigger");
  TriggerData* trigger = reinterpret_cast<TriggerData*>(fcinfo->context);
  TupleDesc desc = RelationGetDescr(trigger->tg_relation);
  auto value = [&](const char* name, bool* is_null) {
    return heap_getattr(trigger->tg_trigtuple, SPI_fnumber(desc, name), desc, is_null);
  };
  bool is_null, no_digest;
  const int64_t schedule_id = DatumGetInt64(value("schedule_id", &is_null));
  const int32_t token_table = DatumGetInt32(value("token_table", &is_null));
  Datum row_key = value("row_key", &is_null);
  Datum replaces = value("replaces", &no_digest);
  if (!is_null && !no_digest) FindRestored(schedule_id, token_table, TextDatumGetCString(row_key), DatumGetByteaP(replaces));
  return PointerGetDatum(nullptr);
}
