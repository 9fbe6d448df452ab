// The store's upkeep: whether the extension is still there, what the last refresher left behind, and the retention of
// the audit and of sessions.
#include "pg/settings.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"
#include "pg/store.h"

namespace token_refresh {

namespace {

// Parameter: the notes of this refresher itself, for it may have had to begin before this succeeds.
Statement recover_in_flight = {
    "WITH lost AS (DELETE FROM token_refresh.in_flight WHERE id <> ALL ($1) RETURNING *),"
    " ids AS (SELECT u.id, l.claimed_at FROM lost l, unnest(l.schedule_ids) AS u(id) WHERE u.id <> ALL (l.only_asked)),"
    " marked AS (UPDATE token_refresh.schedule s SET lost_response = true, "
    "  due_at = CASE WHEN s.row_key IS NOT NULL THEN least(s.due_at, now()) END FROM ids"
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

Statement tidy_sessions = {
    "SELECT token_refresh._tidy_sessions(make_interval(mins => $1)), token_refresh._tidy_sign_ins()", 1, {INT4OID}, nullptr};

Statement forget_former = {
    "WITH dropped AS (DELETE FROM token_refresh.former_token_table f WHERE NOT EXISTS"
    "  (SELECT FROM pg_catalog.pg_class c WHERE c.oid = f.relation) RETURNING id)"
    " DELETE FROM token_refresh.parked_result p USING dropped WHERE p.token_table = dropped.id",
    0,
    {},
    nullptr};

// The tables of the schedule are few: so only their rows are looked at that belong to none.
Statement forget_unknown = {
    "WITH RECURSIVE scheduled(token_table) AS (SELECT min(token_table) FROM token_refresh.schedule"
    "  UNION ALL SELECT (SELECT min(s.token_table) FROM token_refresh.schedule s WHERE s.token_table > k.token_table)"
    "  FROM scheduled k WHERE k.token_table IS NOT NULL)"
    " DELETE FROM token_refresh.schedule WHERE id IN (SELECT s.id FROM scheduled k"
    "  JOIN token_refresh.schedule s ON s.token_table = k.token_table"
    "  WHERE NOT EXISTS (SELECT FROM token_refresh.token_table t WHERE t.id = k.token_table)"
    "  LIMIT 10000 FOR UPDATE OF s SKIP LOCKED)",
    0,
    {},
    nullptr};

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

// What is kept for a time only.
void PgStore::Trim() {
  auto error = RunPostgres(kActivityUpkeep, [] {
    Execute(&forget_former, nullptr, false);
    Execute(&forget_unknown, nullptr, false);
    Datum retention[] = {Int32GetDatum(Settings::audit_retention_min)};
    Execute(&trim_audit, retention, false);
  });
  if (error) Complain("trimming the audit", *error);
}

void PgStore::TidySessions() {
  auto error = RunPostgres(kActivityUpkeep, [] {
    Datum retention[] = {Int32GetDatum(Settings::session_retention_min)};
    Execute(&tidy_sessions, retention, false);
  });
  if (error) Complain("tidying up sessions", *error);
}

}  // namespace token_refresh
