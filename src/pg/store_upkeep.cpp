// The store's upkeep: what the last refresher left behind, the sweep that reconciles the
// schedule with the token tables, and the retention of the audit.
#include "pg/settings.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"
#include "pg/store.h"

namespace token_refresh {

namespace {

// Rows that a sweep reconciles in one transaction.
constexpr int kSweepBatch = 5000;

Statement recover_in_flight = {
    "WITH lost AS (DELETE FROM token_refresh.in_flight RETURNING schedule_ids, claimed_at),"
    " ids AS (SELECT u.id, l.claimed_at FROM lost l, unnest(l.schedule_ids) AS u(id)),"
    " marked AS (UPDATE token_refresh.schedule s SET lost_response = true FROM ids"
    "  WHERE s.id = ids.id AND s.due_at <= now() AND coalesce(s.last_refreshed_at < ids.claimed_at, true)"
    "  RETURNING s.provider, s.token_table, s.row_key)"
    " INSERT INTO token_refresh.audit_event (event, provider, token_table, row_key, failure, actor)"
    " SELECT 'response_lost', p.name, m.token_table, m.row_key, 'transient', 'refresher'"
    " FROM marked m LEFT JOIN token_refresh.provider p ON p.id = m.provider",
    0,
    {},
    nullptr};

Statement trim_audit = {
    "SELECT token_refresh._trim_audit(make_interval(mins => $1))", 1, {INT4OID}, nullptr};

Statement list_tables = {"SELECT id FROM token_refresh.token_table ORDER BY id", 0, {}, nullptr};

// Rows of a token table that the schedule does not know, or knows otherwise.
constexpr const char* kReconcile =
    "SELECT count(token_refresh._plan_row(%d, x.key, x.provider, x.has_refresh, x.status, x.issued_at, x.expires_at,"
    " x.refresh_expires_at)) FROM (SELECT t.%s::text AS key, t.%s::text AS provider, t.%s IS NOT NULL AS has_refresh,"
    " %s AS status, %s AS issued_at, t.%s::timestamptz AS expires_at, %s AS refresh_expires_at"
    " FROM %s t LEFT JOIN token_refresh.schedule s ON s.token_table = %d AND s.row_key = t.%s::text"
    " WHERE s.id IS NULL OR s.expires_at IS DISTINCT FROM t.%s::timestamptz AND NOT EXISTS"
    " (SELECT FROM token_refresh.parked_result p WHERE p.token_table = s.token_table AND p.row_key = s.row_key)"
    " LIMIT %d) x";
constexpr const char* kDropOrphans =
    "DELETE FROM token_refresh.schedule s WHERE s.token_table = %d"
    " AND NOT EXISTS (SELECT FROM %s t WHERE t.%s::text = s.row_key)";

const char* ColumnOr(const TokenTable& table, TokenColumn column, const char* otherwise) {
  if (table.columns[column][0] == '\0') return otherwise;
  return psprintf("t.%s", quote_identifier(table.columns[column]));
}

const char* Name(const TokenTable& table, TokenColumn column) {
  return pstrdup(quote_identifier(table.columns[column]));
}

// A whole-table comparison wants a hash join; the refresher's other statements never do.
void AllowBigJoins() {
  for (const char* setting : {"enable_hashjoin", "enable_mergejoin", "enable_seqscan"})
    set_config_option(setting, "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

int64 Reconcile(const TokenTable& table) {
  AllowBigJoins();
  const char* expires_at = Name(table, kColumnExpiresAt);
  char* sql = psprintf(kReconcile, table.id, Name(table, kColumnKey), Name(table, kColumnProvider),
                       Name(table, kColumnRefreshToken), ColumnOr(table, kColumnStatus, "NULL::text"),
                       ColumnOr(table, kColumnIssuedAt, "now()"), expires_at,
                       ColumnOr(table, kColumnRefreshExpiresAt, "NULL::timestamptz"), table.quoted_name, table.id,
                       Name(table, kColumnKey), expires_at, kSweepBatch);
  if (SPI_execute(sql, false, 0) != SPI_OK_SELECT) elog(ERROR, "token_refresh: reconciling failed");
  bool is_null;
  return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
}

void DropOrphans(const TokenTable& table) {
  AllowBigJoins();
  char* sql = psprintf(kDropOrphans, table.id, table.quoted_name, Name(table, kColumnKey));
  if (SPI_execute(sql, false, 0) != SPI_OK_DELETE) elog(ERROR, "token_refresh: reconciling failed");
}

}  // namespace

bool PgStore::ExtensionPresent() {
  Oid now = InvalidOid;
  auto error = RunPostgres(kActivityUpkeep, [&] { now = get_extension_oid("token_refresh", true); });
  if (error || !OidIsValid(now)) return false;
  if (!OidIsValid(extension_)) extension_ = now;
  return extension_ == now;
}

Status PgStore::Recover() {
  auto error = RunPostgres(kActivityUpkeep, [] { Execute(&recover_in_flight, nullptr, false); });
  if (error) return FromPostgres("looking for lost answers", *error);
  return Ok();
}

Status PgStore::SweepTable(int32_t token_table) {
  for (;;) {
    int64 reconciled = 0;
    auto error = RunPostgres(kActivityUpkeep, [&] { reconciled = Reconcile(StatementsFor(token_table)->table); });
    if (error) return FromPostgres("reconciling the schedule", *error);
    if (reconciled < kSweepBatch) break;
  }
  auto error = RunPostgres(kActivityUpkeep, [&] { DropOrphans(StatementsFor(token_table)->table); });
  if (error) return FromPostgres("reconciling the schedule", *error);
  return Ok();
}

Status PgStore::Sweep() {
  int32_t tables[64];
  int count = 0;
  auto error = RunPostgres(kActivityUpkeep, [&] {
    uint64 found = Execute(&list_tables, nullptr, true);
    bool is_null;
    for (uint64 i = 0; i < found && count < static_cast<int>(lengthof(tables)); i++)
      tables[count++] = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null));
    Datum retention[] = {Int32GetDatum(Settings::audit_retention_min)};
    Execute(&trim_audit, retention, false);
  });
  if (error) return FromPostgres("reading token tables", *error);
  for (int i = 0; i < count; i++) {
    Status swept = SweepTable(tables[i]);
    if (!swept.ok()) return swept;
  }
  return Ok();
}

}  // namespace token_refresh
