// The store's upkeep: what the last refresher left behind, the sweep that reconciles the
// schedule with the token tables, and the retention of the audit.
#include <algorithm>

#include "pg/catalog.h"
#include "pg/provider_cache.h"
#include "pg/settings.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"
#include "pg/store.h"
#include "pg/table_suspension.h"
#include "pg/table_sweep.h"

namespace token_refresh {

namespace {

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

// Those of which no trigger tells everything are looked at more often.
Statement list_tables = {
    "SELECT id, NOT has_trigger OR filter IS NOT NULL OR poll_interval IS NOT NULL, poll_interval"
    " FROM token_refresh.token_table ORDER BY id",
    0,
    {},
    nullptr};

Statement forget_table = {
    "WITH scheduled AS (DELETE FROM token_refresh.schedule WHERE token_table = $1),"
    " parked AS (DELETE FROM token_refresh.parked_result WHERE token_table = $1),"
    " forgotten AS (DELETE FROM token_refresh.token_table WHERE id = $1 RETURNING id)"
    " INSERT INTO token_refresh.audit_event (event, token_table, message, actor)"
    " SELECT 'table_detached', id, 'the table has been dropped', 'refresher' FROM forgotten",
    1,
    {INT4OID},
    nullptr};

// Rows that were locked are looked at again so soon.
constexpr Micros kLockedPause = 30 * kSecond;

void ForgetTable(int32_t id) {
  Datum values[] = {Int32GetDatum(id)};
  Execute(&forget_table, values, false);
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

Micros PgStore::NextSweepAt() const {
  if (sweep_.stage != SweepStage::kIdle || listed_at_version_ != ProviderCacheVersion()) return 0;
  Micros next = INT64_MAX;
  for (const SweptTable& table : swept_tables_) next = std::min(next, SweepDueAt(table));
  return next;
}

// By the settings as they are now, not as they were when the last sweep ended.
Micros PgStore::SweepDueAt(const SweptTable& table) {
  if (table.swept_at == 0) return 0;
  const Micros polled = table.poll_interval > 0 ? table.poll_interval
                                                : static_cast<Micros>(Settings::poll_interval_s) * kSecond;
  const Micros pause = table.polled ? polled : static_cast<Micros>(Settings::sweep_interval_s) * kSecond;
  return table.swept_at + (table.locked ? std::min(pause, kLockedPause) : pause);
}

bool PgStore::SweepStep(Micros now) {
  if (sweep_.stage == SweepStage::kIdle) return StartSweep(now);
  bool ended = false;
  auto error = SweepBatch(&ended);
  // The table's own code has used up its time: another try would use up as much again.
  const bool timed_out = error && error->sqlstate == ERRCODE_QUERY_CANCELED;
  if (timed_out) Suspend(sweep_.table, FromTimestamp(GetCurrentTimestamp()));
  // A row that cannot be planned must not keep those behind it from being so.
  const bool again = error && !timed_out && sweep_.stage == SweepStage::kReconcile && !sweep_.one_by_one;
  // What is not there any more has been detached meanwhile.
  if (error && !again && error->sqlstate != ERRCODE_UNDEFINED_OBJECT) Complain("reconciling the schedule", *error);
  sweep_.one_by_one = again;
  if (!again && (error || ended)) NextSweepStage(now, error.has_value());
  return true;
}

std::optional<PostgresError> PgStore::SweepBatch(bool* ended) {
  MemoryContextReset(scratch_context_);
  SweptBatch swept = {};
  auto error = RunPostgres(kActivityUpkeep, [&] {
    TokenTable* table = GetTokenTable(sweep_.table);
    if (!OidIsValid(get_rel_namespace(table->relation))) return ForgetTable(table->id);
    TokenTableStatements* statements = StatementsFor(sweep_.table);
    if (sweep_.stage == SweepStage::kReconcile)
      ReconcileBatch(statements, sweep_.cursor.c_str(), sweep_.one_by_one, &swept);
    else
      swept.last = DropOrphansBatch(statements, sweep_.cursor.c_str(), sweep_.empty);
    if (swept.last != nullptr) swept.last = MemoryContextStrdup(scratch_context_, swept.last);
  });
  if (error) return error;
  if (swept.failed_sqlstate != 0) Complain("planning a row", {swept.failed_sqlstate, {}});
  sweep_.locked = sweep_.locked || swept.locked;
  *ended = swept.last == nullptr;
  if (sweep_.stage == SweepStage::kReconcile && sweep_.cursor.empty()) sweep_.empty = *ended;
  if (!*ended) sweep_.cursor = swept.last;
  return std::nullopt;
}

// What there is to sweep; keeps when those that were there before have been swept.
void PgStore::ListTables() {
  struct Listed {
    int32_t id;
    bool polled;
    Micros poll_interval;
  };
  MemoryContextReset(scratch_context_);
  Listed* listed = nullptr;
  uint64 count = 0;
  // If reading fails, the next sweep tries again.
  listed_at_version_ = ProviderCacheVersion();
  auto error = RunPostgres(kActivityUpkeep, [&] {
    count = Execute(&list_tables, nullptr, true);
    listed = static_cast<Listed*>(MemoryContextAllocZero(scratch_context_, sizeof(Listed) * (count + 1)));
    for (uint64 i = 0; i < count; i++) {
      HeapTuple tuple = SPI_tuptable->vals[i];
      bool is_null;
      listed[i].id = DatumGetInt32(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &is_null));
      listed[i].polled = DatumGetBool(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &is_null));
      Datum interval = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 3, &is_null);
      listed[i].poll_interval = is_null ? 0 : FromInterval(DatumGetIntervalP(interval));
    }
  });
  if (error) {
    Complain("reading token tables", *error);
    return;
  }
  std::vector<SweptTable> before = std::move(swept_tables_);
  swept_tables_.clear();
  for (uint64 i = 0; i < count; i++) {
    SweptTable table{listed[i].id, listed[i].polled, listed[i].poll_interval, 0, false};
    for (const SweptTable& known : before) {
      if (known.id != table.id) continue;
      table.swept_at = known.swept_at;
      table.locked = known.locked;
    }
    swept_tables_.push_back(table);
  }
}

bool PgStore::StartSweep(Micros now) {
  ListTables();
  for (SweptTable& table : swept_tables_) {
    if (SweepDueAt(table) > now) continue;
    if (IsSuspended(table.id, now)) {
      table.swept_at = now;
      continue;
    }
    if (table.id == kBuiltInTokenTable) TrimAudit();
    sweep_ = SweepState{SweepStage::kReconcile, table.id, "", false, false, false};
    return true;
  }
  return false;
}

void PgStore::TrimAudit() {
  auto error = RunPostgres(kActivityUpkeep, [] {
    Datum retention[] = {Int32GetDatum(Settings::audit_retention_min)};
    Execute(&trim_audit, retention, false);
  });
  if (error) Complain("trimming the audit", *error);
}

void PgStore::NextSweepStage(Micros now, bool failed) {
  sweep_.cursor.clear();
  if (sweep_.stage == SweepStage::kReconcile && !failed) {
    sweep_.stage = SweepStage::kDropOrphans;
    return;
  }
  sweep_.stage = SweepStage::kIdle;
  for (SweptTable& table : swept_tables_) {
    if (table.id != sweep_.table) continue;
    table.swept_at = now;
    table.locked = sweep_.locked;
  }
}

}  // namespace token_refresh
