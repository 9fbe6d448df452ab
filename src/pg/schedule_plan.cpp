#include "pg/schedule_plan.h"

#include "core/refresh_policy.h"
#include "pg/boundary.h"
#include "pg/owner_scope.h"
#include "pg/provider_cache.h"
#include "pg/settings.h"
#include "pg/wakeup.h"

extern "C" {
#include "common/pg_prng.h"

PG_FUNCTION_INFO_V1(token_refresh_plan_row);
PG_FUNCTION_INFO_V1(token_refresh_due_at);
}

namespace token_refresh {

namespace {

// As old as that at least are tokens that are not new.
constexpr Micros kNewFor = kMinute;

// A plan is known by its due time: whoever saves a failure recognises by it that the row was planned anew while it
// was in flight. So a new plan never has the due time of the last one. Parameters 16 to 19 are what the schedule
// held when the row was read; they are compared with the locked row.
constexpr const char* kUpsertSchedule =
    "INSERT INTO token_refresh.schedule AS s (id, token_table, row_key, provider, status, due_at, expires_at, subject,"
    " label, left_alone, failure, message, settling)"
    " VALUES (coalesce(nullif($20, 0), nextval('token_refresh.schedule_id_seq')), $1, $2, $3, $4, $7, $6, $11, $12,"
    " $13, $14, $15, $5)"
    " ON CONFLICT (token_table, row_key) DO UPDATE SET provider = excluded.provider, subject = excluded.subject,"
    " label = excluded.label, left_alone = excluded.left_alone, settling = false,"
    " status = CASE WHEN $8 AND s.status = 'needs_reauth' THEN s.status ELSE excluded.status END,"
    " due_at = CASE WHEN NOT ($8 AND s.status = 'needs_reauth')"
    " THEN $7 + (s.due_at IS NOT DISTINCT FROM $7)::integer * interval '1 microsecond' END,"
    " expires_at = excluded.expires_at, attempts = 0, lost_response = $9 AND s.lost_response,"
    " failure = CASE WHEN $8 AND s.status = 'needs_reauth' THEN s.failure ELSE excluded.failure END,"
    " message = CASE WHEN $8 AND s.status = 'needs_reauth' THEN s.message ELSE excluded.message END,"
    " generation = s.generation + (NOT $10)::integer"
    " WHERE $16 OR s.generation = $17 AND s.expires_at IS NOT DISTINCT FROM $18"
    " AND (s.status IN ('needs_reauth', 'disconnected')) = $19";
constexpr int kUpsertParameters = 20;

SPIPlanPtr PreparedUpsert() {
  static SPIPlanPtr plan = nullptr;
  Oid types[kUpsertParameters] = {INT4OID, TEXTOID, INT4OID, TEXTOID, BOOLOID, TIMESTAMPTZOID, TIMESTAMPTZOID,
                                  BOOLOID, BOOLOID, BOOLOID, TEXTOID, TEXTOID,        BOOLOID,        TEXTOID,
                                  TEXTOID, BOOLOID, INT8OID, TIMESTAMPTZOID, BOOLOID, INT8OID};
  if (plan != nullptr) return plan;
  SPIPlanPtr fresh = SPI_prepare(kUpsertSchedule, kUpsertParameters, types);
  if (fresh == nullptr) elog(ERROR, "token_refresh: SPI_prepare failed for the schedule");
  SPI_keepplan(fresh);
  plan = fresh;
  return plan;
}

Micros DefaultMargin() { return static_cast<Micros>(Settings::refresh_margin_s) * kSecond; }

// Tokens of which nobody knows since when they are valid are taken to be old enough for the whole margin.
Micros IssuedAt(const PlannedRow& row, Micros margin) {
  if (row.issued) return FromTimestamp(row.issued_at);
  const Micros now = FromTimestamp(GetCurrentTimestamp());
  return row.expires ? Min(now, FromTimestamp(row.expires_at) - 4 * margin) : now;
}

std::optional<Micros> ComputeDue(const PlannedRow& row, const KnownProvider& provider) {
  if (!row.has_refresh_token || row.left_alone) return std::nullopt;
  RefreshTiming timing = provider.timing;
  if (row.table->refresh_margin > 0) timing.refresh_margin = row.table->refresh_margin;
  TokenTimes times;
  times.issued_at = IssuedAt(row, timing.refresh_margin.value_or(DefaultMargin()));
  if (row.expires) times.expires_at = FromTimestamp(row.expires_at);
  if (row.refresh_expires) times.refresh_expires_at = FromTimestamp(row.refresh_expires_at);
  return DueAt(timing, DefaultMargin(), times, pg_prng_double(&pg_global_prng_state));
}

// What the schedule does not know although its tokens are not new comes out of a dump. What belongs to it, a parked
// result or the pause, may be restored after it: until then its refresh token must not be used.
bool ComesFromDump(const PlannedRow& row) {
  const Micros then = FromTimestamp(GetCurrentTimestamp()) - kNewFor;
  const bool new_tokens = row.issued && FromTimestamp(row.issued_at) > then;
  const bool new_table = !row.table->built_in && FromTimestamp(row.table->attached_at) > then;
  return !new_tokens && !new_table;
}

Datum TextOr(const char* text, char* null) {
  *null = text == nullptr ? 'n' : ' ';
  return text == nullptr ? 0 : CStringGetTextDatum(text);
}

Datum TimeOr(const std::optional<Micros>& time, char* null) {
  *null = time ? ' ' : 'n';
  return TimestampTzGetDatum(time ? ToTimestamp(*time) : 0);
}

// Without its provider a row that has something to refresh is in error.
const char* MissingProvider(const PlannedRow& row, const KnownProvider* provider) {
  if (provider != nullptr || !row.has_refresh_token) return nullptr;
  return row.provider == nullptr ? "the row names no provider"
                                 : psprintf("there is no provider \"%s\"", row.provider);
}

// known null: the row is as this transaction has written it.
void WriteSchedule(const PlannedRow& row, const Unchanged& unchanged, const KnownSchedule* known) {
  const KnownProvider* provider = row.provider == nullptr ? nullptr : FindProvider(row.provider);
  const char* missing = MissingProvider(row, provider);
  const bool dead = row.status == kNeedsReauth || row.status == kDisconnected;
  std::optional<Micros> due = dead || provider == nullptr ? std::nullopt : ComputeDue(row, *provider);
  char nulls[kUpsertParameters + 1] = "                    ";
  Datum values[] = {Int32GetDatum(row.table->id),
                    CStringGetTextDatum(row.row_key),
                    Int32GetDatum(provider != nullptr ? provider->id : kUnknownProvider),
                    CStringGetTextDatum(dead ? kStatusWords[row.status] : missing != nullptr ? "error" : "connected"),
                    BoolGetDatum(due && ComesFromDump(row)),
                    TimestampTzGetDatum(row.expires_at),
                    TimeOr(due, &nulls[6]),
                    BoolGetDatum(unchanged.verdict),
                    BoolGetDatum(unchanged.refresh_token),
                    BoolGetDatum(unchanged.tokens),
                    TextOr(row.table->built_in ? nullptr : row.subject, &nulls[10]),
                    TextOr(row.table->built_in ? nullptr : row.label, &nulls[11]),
                    BoolGetDatum(row.left_alone),
                    TextOr(missing != nullptr ? "client_config" : nullptr, &nulls[13]),
                    TextOr(missing, &nulls[14]),
                    BoolGetDatum(known == nullptr),
                    Int64GetDatum(known != nullptr ? known->generation : 0),
                    TimestampTzGetDatum(known != nullptr ? known->expires_at : 0),
                    BoolGetDatum(known != nullptr && known->dead),
                    Int64GetDatum(row.schedule_id)};
  if (!row.expires) nulls[5] = 'n';
  if (known != nullptr && !known->exists) nulls[16] = 'n';
  if (known != nullptr && !known->expires) nulls[17] = 'n';
  if (SPI_execute_plan(PreparedUpsert(), values, nulls, false, 0) < 0)
    elog(ERROR, "token_refresh: writing the schedule failed");
  if (due) WakeRefresherAtCommit(ToTimestamp(*due));
}

}  // namespace

void PlanWrittenRow(const PlannedRow& row, const Unchanged& unchanged) { WriteSchedule(row, unchanged, nullptr); }

void PlanReadRow(const PlannedRow& row, const KnownSchedule& known) {
  constexpr Unchanged kNoNewTokens = {.verdict = false, .refresh_token = true, .tokens = true};
  WriteSchedule(row, known.arrived != nullptr ? *known.arrived : kNoNewTokens, &known);
}

}  // namespace token_refresh

extern "C" Datum token_refresh_plan_row(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  for (int i : {0, 1, 2, 3})
    if (PG_ARGISNULL(i)) PG_RETURN_VOID();
  OwnerScope scope;
  EnterOwnerScope(&scope);
  PlannedRow row = {};
  row.table = GetTokenTable(PG_GETARG_INT32(0));
  row.row_key = text_to_cstring(PG_GETARG_TEXT_PP(1));
  row.provider = text_to_cstring(PG_GETARG_TEXT_PP(2));
  row.has_refresh_token = PG_GETARG_BOOL(3);
  row.status = StatusOf(*row.table, PG_ARGISNULL(4) ? nullptr : text_to_cstring(PG_GETARG_TEXT_PP(4)));
  row.issued = !PG_ARGISNULL(5);
  row.issued_at = row.issued ? PG_GETARG_TIMESTAMPTZ(5) : 0;
  row.expires = !PG_ARGISNULL(6);
  row.expires_at = row.expires ? PG_GETARG_TIMESTAMPTZ(6) : 0;
  row.refresh_expires = !PG_ARGISNULL(7);
  row.refresh_expires_at = row.refresh_expires ? PG_GETARG_TIMESTAMPTZ(7) : 0;
  KnownSchedule known = {};
  known.exists = !PG_ARGISNULL(8);
  known.generation = known.exists ? PG_GETARG_INT64(8) : 0;
  known.expires = !PG_ARGISNULL(9);
  known.expires_at = known.expires ? PG_GETARG_TIMESTAMPTZ(9) : 0;
  PlanReadRow(row, known);
  LeaveOwnerScope(&scope);
  PG_RETURN_VOID();
}

// The token table itself is not opened, for somebody may hold it locked.
extern "C" Datum token_refresh_due_at(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  if (PG_ARGISNULL(0)) PG_RETURN_NULL();
  OwnerScope scope;
  EnterOwnerScope(&scope);
  TokenTable table = {};
  if (!PG_ARGISNULL(1)) table.refresh_margin = FromInterval(PG_GETARG_INTERVAL_P(1));
  PlannedRow row = {};
  row.table = &table;
  row.has_refresh_token = true;
  row.issued = !PG_ARGISNULL(2);
  row.issued_at = row.issued ? PG_GETARG_TIMESTAMPTZ(2) : 0;
  row.expires = !PG_ARGISNULL(3);
  row.expires_at = row.expires ? PG_GETARG_TIMESTAMPTZ(3) : 0;
  row.refresh_expires = !PG_ARGISNULL(4);
  row.refresh_expires_at = row.refresh_expires ? PG_GETARG_TIMESTAMPTZ(4) : 0;
  const KnownProvider* provider = FindProvider(text_to_cstring(PG_GETARG_TEXT_PP(0)));
  std::optional<Micros> due = provider != nullptr ? ComputeDue(row, *provider) : std::nullopt;
  if (due) WakeRefresherAtCommit(ToTimestamp(*due));
  LeaveOwnerScope(&scope);
  if (!due) PG_RETURN_NULL();
  PG_RETURN_TIMESTAMPTZ(ToTimestamp(*due));
}
