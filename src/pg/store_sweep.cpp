// The sweep that reconciles the schedule with the token tables: which table is swept when, by turns, and a sweep's
// stages. What is done with one batch of rows: table_sweep, sweep_missing.
#include <algorithm>

#include "pg/catalog.h"
#include "pg/provider_cache.h"
#include "pg/settings.h"
#include "pg/statements.h"
#include "pg/store.h"
#include "pg/table_suspension.h"
#include "pg/table_sweep.h"

namespace token_refresh {

namespace {

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
// How long a table is swept while others wait.
constexpr Micros kSweepTurn = kSecond;
// A sweep that fails is tried again after 2, 4, 8 ... s: a table may just be about to be restored.
constexpr int kMostDoublings = 20;

void ForgetTable(int32_t id) {
  Datum values[] = {Int32GetDatum(id)};
  Execute(&forget_table, values, false);
}

}  // namespace

Micros PgStore::NextSweepAt() const {
  if (sweep_.stage != SweepStage::kIdle || listed_at_version_ != ProviderCacheVersion()) return 0;
  Micros next = INT64_MAX;
  for (const SweptTable& table : swept_tables_) next = std::min(next, SweepDueAt(table));
  return next;
}

// By the settings as they are now, not as they were when the last sweep ended.
Micros PgStore::SweepDueAt(const SweptTable& table) {
  const Micros suspended_until = SuspendedUntil(table.id, FromTimestamp(GetCurrentTimestamp()));
  if (table.swept_at == 0 || table.paused) return suspended_until;
  const Micros polled = table.poll_interval > 0 ? table.poll_interval
                                                : static_cast<Micros>(Settings::poll_interval_s) * kSecond;
  const Micros pause = table.polled ? polled : static_cast<Micros>(Settings::sweep_interval_s) * kSecond;
  const Micros wanted = table.failures > 0 ? kSecond << std::min(table.failures, kMostDoublings)
                        : table.locked     ? kLockedPause
                                           : pause;
  return std::max(table.swept_at + std::min(pause, wanted), suspended_until);
}

bool PgStore::SweepStep(Micros now) {
  if (sweep_.stage == SweepStage::kIdle) return StartSweep(now);
  if (IsSuspended(sweep_.table, now)) return PauseSweep(now);
  bool ended = false;
  auto error = SweepBatch(&ended);
  // A row that cannot be read or planned must not keep those behind it from being so.
  const bool again = error && !sweep_.detached && sweep_.stage == SweepStage::kReconcile && !sweep_.one_by_one;
  if (error && !again) Complain("reconciling the schedule", *error);
  sweep_.one_by_one = again;
  if (!again && (error || ended)) NextSweepStage(now, error || sweep_.detached);
  if (sweep_.stage != SweepStage::kIdle && now - sweep_.turn_began_at > kSweepTurn) PauseSweep(now);
  return true;
}

std::optional<PostgresError> PgStore::SweepBatch(bool* ended) {
  MemoryContextReset(scratch_context_);
  SweptBatch swept = {};
  bool more = false;
  std::vector<InFlightToken> in_flight(in_flight_.size());
  size_t n = 0;
  for (const auto& [schedule_id, digest] : in_flight_) {
    in_flight[n].schedule_id = schedule_id;
    digest.copy(in_flight[n++].digest, sizeof(InFlightToken::digest));
  }
  const char* cursor = sweep_.cursor ? sweep_.cursor->c_str() : nullptr;
  auto error = RunPostgres(kActivityUpkeep, [&] {
    TokenTable* table = FindTokenTable(sweep_.table);
    swept.detached = table == nullptr || (sweep_.stage == SweepStage::kCleanUp && !HoldTokenTable(table->id));
    if (swept.detached) return;
    if (!OidIsValid(get_rel_namespace(table->relation))) return ForgetTable(table->id);
    TokenTableStatements* statements = StatementsFor(sweep_.table);
    if (sweep_.stage == SweepStage::kFindMissing)
      swept.last = FindMissingBatch(statements, cursor, in_flight);
    else if (sweep_.stage == SweepStage::kReconcile)
      ReconcileBatch(statements, cursor, sweep_.one_by_one, in_flight, &swept);
    else
      more = !CleanUpBatch(table->id, sweep_.began_at, sweep_.empty || table->hides_rows, sweep_.locked);
    if (swept.last != nullptr) swept.last = MemoryContextStrdup(scratch_context_, swept.last);
  });
  if (error) return error;
  if (swept.failed_sqlstate != 0) Complain("planning a row", {swept.failed_sqlstate, {}});
  sweep_.detached = swept.detached;
  sweep_.locked = sweep_.locked || swept.locked;
  // One that does not move, as the owner's casts may have it, would never come to the end.
  const bool moved = swept.last != nullptr && sweep_.cursor != swept.last;
  *ended = !moved && !more;
  if (sweep_.stage == SweepStage::kReconcile && !sweep_.cursor) sweep_.empty = swept.last == nullptr;
  if (moved) sweep_.cursor = swept.last;
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
    SweptTable table;
    for (const SweptTable& known : before)
      if (known.id == listed[i].id) table = known;
    table.id = listed[i].id;
    table.polled = listed[i].polled;
    table.poll_interval = listed[i].poll_interval;
    swept_tables_.push_back(std::move(table));
  }
  ReleaseDetached(before);
}

// What this process knows of tables that are not attached any more. Looking for them lets it go.
void PgStore::ReleaseDetached(const std::vector<SweptTable>& before) {
  std::vector<int32_t> detached;
  for (const SweptTable& table : before) {
    auto same = [&](const SweptTable& listed) { return listed.id == table.id; };
    if (std::none_of(swept_tables_.begin(), swept_tables_.end(), same)) detached.push_back(table.id);
  }
  if (detached.empty()) return;
  auto error = RunPostgres(kActivityUpkeep, [&] {
    for (int32_t id : detached) (void)FindTokenTable(id);
  });
  if (error) Complain("forgetting detached tables", *error);
}

// By turns: whatever a table does to make its sweep long, the others are swept as well.
bool PgStore::StartSweep(Micros now) {
  ListTables();
  SweptTable* next = nullptr;
  for (SweptTable& table : swept_tables_)
    if (SweepDueAt(table) <= now && (next == nullptr || table.turn_ended_at < next->turn_ended_at)) next = &table;
  if (next == nullptr) return false;
  if (next->id == kBuiltInTokenTable && !next->paused) {
    Trim();
    TidySessions();
  }
  if (next->paused)
    sweep_ = std::move(*next->paused);
  else
    sweep_ = {.stage = SweepStage::kFindMissing, .table = next->id, .began_at = now};
  sweep_.turn_began_at = now;
  next->paused.reset();
  return true;
}

// Goes on where it was when it is the table's turn again.
bool PgStore::PauseSweep(Micros now) {
  for (SweptTable& table : swept_tables_) {
    if (table.id != sweep_.table) continue;
    table.paused = sweep_;
    table.turn_ended_at = now;
  }
  sweep_ = {};
  return true;
}

void PgStore::NextSweepStage(Micros now, bool failed) {
  sweep_.cursor.reset();
  if (sweep_.stage != SweepStage::kCleanUp && !failed) {
    sweep_.stage = sweep_.stage == SweepStage::kFindMissing ? SweepStage::kReconcile : SweepStage::kCleanUp;
    return;
  }
  sweep_.stage = SweepStage::kIdle;
  for (SweptTable& table : swept_tables_) {
    if (table.id != sweep_.table) continue;
    table.swept_at = table.turn_ended_at = now;
    table.locked = sweep_.locked;
    table.failures = failed ? table.failures + 1 : 0;
  }
}

}  // namespace token_refresh
