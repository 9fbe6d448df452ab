// The store's upkeep: what the last refresher left behind, the sweep that reconciles the
// schedule with the token tables, and the retention of the audit.
#include "pg/settings.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"
#include "pg/store.h"

namespace token_refresh {

namespace {

// Rows that a sweep looks at in one transaction, a few milliseconds of work.
constexpr int kSweepBatch = 1000;

// Parameter: the notes of this refresher itself, for it may have had to begin before this succeeds.
Statement recover_in_flight = {
    "WITH lost AS (DELETE FROM token_refresh.in_flight WHERE id <> ALL ($1) RETURNING schedule_ids, claimed_at),"
    " ids AS (SELECT u.id, l.claimed_at FROM lost l, unnest(l.schedule_ids) AS u(id)),"
    " marked AS (UPDATE token_refresh.schedule s SET lost_response = true, due_at = least(s.due_at, now()) FROM ids"
    "  WHERE s.id = ids.id AND s.status <> 'needs_reauth' AND coalesce(s.last_refreshed_at < ids.claimed_at, true)"
    "  RETURNING s.provider, s.token_table, s.row_key)"
    " INSERT INTO token_refresh.audit_event (event, provider, token_table, row_key, failure, actor)"
    " SELECT 'response_lost', p.name, m.token_table, m.row_key, 'transient', 'refresher'"
    " FROM marked m LEFT JOIN token_refresh.provider p ON p.id = m.provider",
    1,
    {INT8ARRAYOID},
    nullptr};

Statement trim_audit = {
    "SELECT token_refresh._trim_audit(make_interval(mins => $1))", 1, {INT4OID}, nullptr};

Statement list_tables = {"SELECT id FROM token_refresh.token_table ORDER BY id", 0, {}, nullptr};

// The next rows of a token table, by key; those that the schedule does not know, or knows otherwise, are
// planned. Gives the last key, null at the end.
constexpr const char* kReconcile =
    "WITH batch AS (SELECT t.%s AS key, t.%s::text AS provider, t.%s IS NOT NULL AS has_refresh,"
    " %s AS status, %s AS issued_at, t.%s::timestamptz AS expires_at, %s AS refresh_expires_at"
    " FROM %s t %s ORDER BY t.%s LIMIT %d),"
    " planned AS (SELECT count(token_refresh._plan_row(%d, b.key::text, b.provider, b.has_refresh, b.status,"
    "  b.issued_at, b.expires_at, b.refresh_expires_at)) AS n FROM batch b"
    "  LEFT JOIN token_refresh.schedule s ON s.token_table = %d AND s.row_key = b.key::text"
    "  WHERE s.id IS NULL OR s.expires_at IS DISTINCT FROM b.expires_at AND NOT EXISTS"
    "  (SELECT FROM token_refresh.parked_result p WHERE p.token_table = s.token_table AND p.row_key = s.row_key))"
    " SELECT (SELECT key::text FROM batch ORDER BY key DESC LIMIT 1), (SELECT n FROM planned)";
// The next rows of the schedule; those whose token row is gone are deleted. Gives the last id, null at the end.
constexpr const char* kDropOrphans =
    "WITH batch AS (SELECT s.id, s.row_key FROM token_refresh.schedule s WHERE s.token_table = %d AND s.id > $1"
    "  ORDER BY s.id LIMIT %d),"
    " gone AS (DELETE FROM token_refresh.schedule s USING batch b WHERE s.id = b.id"
    "  AND NOT EXISTS (SELECT FROM %s t WHERE t.%s = b.row_key::%s))"
    " SELECT max(id) FROM batch";

const char* ColumnOr(const TokenTable& table, TokenColumn column, const char* otherwise) {
  if (table.columns[column][0] == '\0') return otherwise;
  return psprintf("t.%s", quote_identifier(table.columns[column]));
}

const char* Name(const TokenTable& table, TokenColumn column) {
  return pstrdup(quote_identifier(table.columns[column]));
}

// Executes sql with the cursor; fills it with where the batch ended. False at the end.
bool RunBatch(const char* sql, Oid type, Datum start, bool has_start, char* end, size_t end_size) {
  Oid types[] = {type};
  Datum values[] = {start};
  if (SPI_execute_with_args(sql, has_start ? 1 : 0, types, values, nullptr, false, 0) != SPI_OK_SELECT)
    elog(ERROR, "token_refresh: reconciling failed");
  char* last = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
  if (last == nullptr) return false;
  strlcpy(end, last, end_size);
  return true;
}

bool ReconcileBatch(const TokenTable& table, char* cursor, size_t cursor_size) {
  const char* key = Name(table, kColumnKey);
  bool has_start = cursor[0] != '\0';
  const char* beyond = has_start ? psprintf("WHERE t.%s > $1::%s", key, format_type_be(table.key_type)) : "";
  char* sql = psprintf(kReconcile, key, Name(table, kColumnProvider), Name(table, kColumnRefreshToken),
                       ColumnOr(table, kColumnStatus, "NULL::text"), ColumnOr(table, kColumnIssuedAt, "now()"),
                       Name(table, kColumnExpiresAt), ColumnOr(table, kColumnRefreshExpiresAt, "NULL::timestamptz"),
                       table.quoted_name, beyond, key, kSweepBatch, table.id, table.id);
  return RunBatch(sql, TEXTOID, CStringGetTextDatum(cursor), has_start, cursor, cursor_size);
}

bool DropOrphansBatch(const TokenTable& table, char* cursor, size_t cursor_size) {
  char* sql = psprintf(kDropOrphans, table.id, kSweepBatch, table.quoted_name, Name(table, kColumnKey),
                       format_type_be(table.key_type));
  int64 start = cursor[0] == '\0' ? 0 : pg_strtoint64(cursor);
  return RunBatch(sql, INT8OID, Int64GetDatum(start), true, cursor, cursor_size);
}

}  // namespace

bool PgStore::ExtensionPresent() {
  Oid now = InvalidOid;
  auto error = RunPostgres(kActivityUpkeep, [&] { now = get_extension_oid("token_refresh", true); });
  // What kept us from looking says nothing about the extension.
  if (error) return true;
  if (!OidIsValid(now)) return false;
  if (!OidIsValid(extension_)) extension_ = now;
  return extension_ == now;
}

Status PgStore::Recover() {
  std::vector<int64_t> own;
  for (const auto& [journal, left] : journal_left_) own.push_back(journal);
  const int64_t* notes = own.data();
  const int count = static_cast<int>(own.size());
  auto error = RunPostgres(kActivityUpkeep, [&] {
    Datum values[] = {MakeArray(count, INT8OID, [&](int i, bool*) { return Int64GetDatum(notes[i]); })};
    Execute(&recover_in_flight, values, false);
  });
  if (error) return Complain("looking for lost answers", *error);
  return Ok();
}

bool PgStore::SweepStep() {
  if (sweep_.stage == SweepStage::kIdle) return StartSweep();
  char cursor[sizeof(sweep_.cursor)];
  strlcpy(cursor, sweep_.cursor, sizeof(cursor));
  bool more = false;
  auto error = RunPostgres(kActivityUpkeep, [&] {
    const TokenTable& table = StatementsFor(sweep_.tables[sweep_.table])->table;
    more = sweep_.stage == SweepStage::kReconcile ? ReconcileBatch(table, cursor, sizeof(cursor))
                                                  : DropOrphansBatch(table, cursor, sizeof(cursor));
  });
  if (error) Complain("reconciling the schedule", *error);
  if (!error && more) {
    strlcpy(sweep_.cursor, cursor, sizeof(sweep_.cursor));
    return true;
  }
  return NextSweepStage();
}

bool PgStore::StartSweep() {
  sweep_ = {};
  auto error = RunPostgres(kActivityUpkeep, [&] {
    uint64 found = Execute(&list_tables, nullptr, true);
    bool is_null;
    for (uint64 i = 0; i < found && sweep_.table_count < static_cast<int>(lengthof(sweep_.tables)); i++)
      sweep_.tables[sweep_.table_count++] =
          DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null));
  });
  if (error) Complain("reading token tables", *error);
  error = RunPostgres(kActivityUpkeep, [] {
    Datum retention[] = {Int32GetDatum(Settings::audit_retention_min)};
    Execute(&trim_audit, retention, false);
  });
  if (error) Complain("trimming the audit", *error);
  if (sweep_.table_count == 0) return false;
  sweep_.stage = SweepStage::kReconcile;
  return true;
}

bool PgStore::NextSweepStage() {
  sweep_.cursor[0] = '\0';
  if (sweep_.stage == SweepStage::kReconcile) {
    sweep_.stage = SweepStage::kDropOrphans;
    return true;
  }
  sweep_.stage = SweepStage::kReconcile;
  if (++sweep_.table < sweep_.table_count) return true;
  sweep_.stage = SweepStage::kIdle;
  return false;
}

}  // namespace token_refresh
