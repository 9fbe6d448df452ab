#include "pg/feed.h"

#include "core/refresh_policy.h"
#include "pg/boundary.h"
#include "pg/catalog.h"
#include "pg/owner_scope.h"
#include "pg/provider_cache.h"
#include "pg/settings.h"
#include "pg/token_tables.h"
#include "pg/wakeup.h"

extern "C" {
#include "common/pg_prng.h"

PG_FUNCTION_INFO_V1(token_refresh_feed_schedule);
PG_FUNCTION_INFO_V1(token_refresh_plan_row);
PG_FUNCTION_INFO_V1(token_refresh_own_writes);
}

namespace token_refresh {

namespace {

// What the schedule does not know although its tokens are not new comes out of a dump. What belongs to it, a
// parked result or the pause, may be restored after it: until then its refresh token must not be used.
constexpr Micros kSettleTime = kMinute;

// A plan is known by its due time: whoever saves a failure recognises by it that the row was planned anew while it
// was in flight. So a new plan never has the due time of the last one.
constexpr const char* kUpsertSchedule =
    "INSERT INTO token_refresh.schedule AS s (token_table, row_key, provider, status, due_at, expires_at)"
    " VALUES ($1, $2, $3, $4, $5, $6)"
    " ON CONFLICT (token_table, row_key) DO UPDATE SET provider = excluded.provider,"
    " status = CASE WHEN $8 AND s.status = 'needs_reauth' THEN s.status ELSE excluded.status END,"
    " due_at = CASE WHEN NOT ($8 AND s.status = 'needs_reauth')"
    " THEN $7 + (s.due_at IS NOT DISTINCT FROM $7)::integer * interval '1 microsecond' END,"
    " expires_at = excluded.expires_at, attempts = 0, lost_response = $9 AND s.lost_response,"
    " failure = CASE WHEN $8 AND s.status = 'needs_reauth' THEN s.failure END,"
    " message = CASE WHEN $8 AND s.status = 'needs_reauth' THEN s.message END,"
    " generation = s.generation + (NOT $10)::integer";
constexpr const char* kDeleteSchedule = "DELETE FROM token_refresh.schedule WHERE token_table = $1 AND row_key = $2";
constexpr const char* kDeleteParked =
    "DELETE FROM token_refresh.parked_result WHERE token_table = $1 AND row_key = $2";
constexpr const char* kResolveParked =
    "UPDATE token_refresh.parked_result SET retry_at = now() WHERE token_table = $1 AND row_key = $2";
constexpr const char* kClearSchedule = "DELETE FROM token_refresh.schedule WHERE token_table = $1";
constexpr const char* kClearParked = "DELETE FROM token_refresh.parked_result WHERE token_table = $1";

bool own_writes = false;
bool own_writes_until_end = false;

void EndOwnWrites(XactEvent event, void*) {
  if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
    own_writes_until_end = false;
}

// One row of a token table, as far as planning needs it.
struct PlannedRow {
  int32_t token_table;
  char* row_key;
  char* provider;
  char* status;  // may be null: connected
  bool has_refresh_token;
  TimestampTz issued_at;
  bool expires;
  TimestampTz expires_at;
  bool refresh_expires;
  TimestampTz refresh_expires_at;
};

// What of a row is as the schedule has known it.
struct Unchanged {
  bool verdict;  // if the schedule has been told that the grant is dead, it stays so
  bool refresh_token;
  bool tokens;   // both
};

SPIPlanPtr Prepared(SPIPlanPtr* plan, const char* sql, int count, Oid* types) {
  if (*plan == nullptr) {
    SPIPlanPtr fresh = SPI_prepare(sql, count, types);
    if (fresh == nullptr) elog(ERROR, "token_refresh: SPI_prepare failed for the schedule");
    SPI_keepplan(fresh);
    *plan = fresh;
  }
  return *plan;
}

std::optional<Micros> ComputeDue(const PlannedRow& row, const KnownProvider& provider) {
  if (!row.has_refresh_token) return std::nullopt;
  TokenTimes times;
  times.issued_at = FromTimestamp(row.issued_at);
  if (row.expires) times.expires_at = FromTimestamp(row.expires_at);
  if (row.refresh_expires) times.refresh_expires_at = FromTimestamp(row.refresh_expires_at);
  return DueAt(provider.timing, static_cast<Micros>(Settings::refresh_margin_s) * kSecond, times,
               pg_prng_double(&pg_global_prng_state));
}

// When the row is due if the schedule does not know it yet.
std::optional<Micros> FirstDue(const PlannedRow& row, const std::optional<Micros>& due) {
  const Micros now = FromTimestamp(GetCurrentTimestamp());
  if (!due || FromTimestamp(row.issued_at) > now - kSettleTime) return due;
  return Max(*due, now + kSettleTime);
}

// Caller is in an OwnerScope.
void WriteSchedule(const PlannedRow& row, const Unchanged& unchanged) {
  static SPIPlanPtr plan = nullptr;
  Oid types[] = {INT4OID,        TEXTOID,        INT4OID, TEXTOID, TIMESTAMPTZOID,
                 TIMESTAMPTZOID, TIMESTAMPTZOID, BOOLOID, BOOLOID, BOOLOID};
  const KnownProvider* provider = FindProvider(row.provider);
  if (provider == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("unknown provider \"%s\"", row.provider),
                    errhint("Create it with token_refresh.create_provider().")));
  bool dead = row.status != nullptr && (strcmp(row.status, "needs_reauth") == 0 || strcmp(row.status, "disconnected") == 0);
  std::optional<Micros> due = dead ? std::nullopt : ComputeDue(row, *provider);
  std::optional<Micros> first_due = FirstDue(row, due);
  Datum values[] = {Int32GetDatum(row.token_table),
                    CStringGetTextDatum(row.row_key),
                    Int32GetDatum(provider->id),
                    CStringGetTextDatum(dead ? row.status : "connected"),
                    TimestampTzGetDatum(first_due ? ToTimestamp(*first_due) : 0),
                    TimestampTzGetDatum(row.expires_at),
                    TimestampTzGetDatum(due ? ToTimestamp(*due) : 0),
                    BoolGetDatum(unchanged.verdict),
                    BoolGetDatum(unchanged.refresh_token),
                    BoolGetDatum(unchanged.tokens)};
  const char due_null = due ? ' ' : 'n';
  const char nulls[] = {' ', ' ', ' ', ' ', due_null, row.expires ? ' ' : 'n', due_null, ' ', ' ', ' ', '\0'};
  if (SPI_execute_plan(Prepared(&plan, kUpsertSchedule, lengthof(types), types), values, nulls, false, 0) < 0)
    elog(ERROR, "token_refresh: writing the schedule failed");
  if (due) WakeRefresherAtCommit(ToTimestamp(*due));
}

void DeleteOne(const char* sql, SPIPlanPtr* plan, int32_t token_table, const char* row_key) {
  Oid types[] = {INT4OID, TEXTOID};
  Datum values[] = {Int32GetDatum(token_table), CStringGetTextDatum(row_key)};
  if (SPI_execute_plan(Prepared(plan, sql, 2, types), values, nullptr, false, 0) < 0)
    elog(ERROR, "token_refresh: deleting from the schedule failed");
}

void DeleteParked(int32_t token_table, const char* row_key) {
  static SPIPlanPtr plan = nullptr;
  DeleteOne(kDeleteParked, &plan, token_table, row_key);
}

void DeleteScheduled(int32_t token_table, const char* row_key) {
  static SPIPlanPtr plan = nullptr;
  DeleteOne(kDeleteSchedule, &plan, token_table, row_key);
  DeleteParked(token_table, row_key);
}

void ClearTable(int32_t token_table) {
  Oid types[] = {INT4OID};
  Datum values[] = {Int32GetDatum(token_table)};
  for (const char* sql : {kClearSchedule, kClearParked})
    if (SPI_execute_with_args(sql, 1, types, values, nullptr, false, 0) < 0)
      elog(ERROR, "token_refresh: emptying the schedule failed");
}

Datum Column(HeapTuple tuple, TupleDesc desc, const TokenTable& table, TokenColumn column, bool* is_null) {
  *is_null = true;
  if (table.columns[column][0] == '\0') return 0;
  int number = SPI_fnumber(desc, table.columns[column]);
  if (number == SPI_ERROR_NOATTRIBUTE)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
                    errmsg("column \"%s\" of token table %s does not exist", table.columns[column], table.quoted_name)));
  return SPI_getbinval(tuple, desc, number, is_null);
}

char* ColumnText(HeapTuple tuple, TupleDesc desc, const TokenTable& table, TokenColumn column) {
  if (table.columns[column][0] == '\0') return nullptr;
  return SPI_getvalue(tuple, desc, SPI_fnumber(desc, table.columns[column]));
}

void ReadPlannedRow(HeapTuple tuple, TupleDesc desc, const TokenTable& table, PlannedRow* row) {
  bool is_null;
  row->token_table = table.id;
  row->row_key = ColumnText(tuple, desc, table, kColumnKey);
  row->provider = ColumnText(tuple, desc, table, kColumnProvider);
  row->status = ColumnText(tuple, desc, table, kColumnStatus);
  Column(tuple, desc, table, kColumnRefreshToken, &is_null);
  row->has_refresh_token = !is_null;
  Datum issued_at = Column(tuple, desc, table, kColumnIssuedAt, &is_null);
  row->issued_at = is_null ? GetCurrentTimestamp() : DatumGetTimestampTz(issued_at);
  Datum expires_at = Column(tuple, desc, table, kColumnExpiresAt, &is_null);
  row->expires = !is_null;
  row->expires_at = is_null ? 0 : DatumGetTimestampTz(expires_at);
  Datum refresh_expires_at = Column(tuple, desc, table, kColumnRefreshExpiresAt, &is_null);
  row->refresh_expires = !is_null;
  row->refresh_expires_at = is_null ? 0 : DatumGetTimestampTz(refresh_expires_at);
}

bool SameBytes(HeapTuple a, HeapTuple b, TupleDesc desc, const TokenTable& table, TokenColumn column) {
  bool a_null, b_null;
  Datum x = Column(a, desc, table, column, &a_null);
  Datum y = Column(b, desc, table, column, &b_null);
  if (a_null || b_null) return a_null == b_null;
  return DatumGetBool(DirectFunctionCall2(byteaeq, x, y));
}

bool SameText(HeapTuple a, HeapTuple b, TupleDesc desc, const TokenTable& table, TokenColumn column) {
  char* x = ColumnText(a, desc, table, column);
  char* y = ColumnText(b, desc, table, column);
  return x == nullptr || y == nullptr ? x == y : strcmp(x, y) == 0;
}

// Whether the tokens stored now replace a parked result, or are the very ones that it has already
// replaced, is for the refresher to find out: it can compare them.
void ResolveParkedSoon(const PlannedRow& row) {
  static SPIPlanPtr plan = nullptr;
  Oid types[] = {INT4OID, TEXTOID};
  Datum values[] = {Int32GetDatum(row.token_table), CStringGetTextDatum(row.row_key)};
  if (SPI_execute_plan(Prepared(&plan, kResolveParked, 2, types), values, nullptr, false, 0) < 0)
    elog(ERROR, "token_refresh: writing the schedule failed");
  if (SPI_processed > 0) WakeRefresherAtCommit(GetCurrentTimestamp());
}

// A secret of one provider must not be sent to another.
void RefuseOtherProvider(TriggerData* trigger, const TokenTable& table) {
  TupleDesc desc = RelationGetDescr(trigger->tg_relation);
  char* before = ColumnText(trigger->tg_trigtuple, desc, table, kColumnProvider);
  char* after = ColumnText(trigger->tg_newtuple, desc, table, kColumnProvider);
  if (before != nullptr && after != nullptr && strcmp(before, after) != 0)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("a credential cannot be moved to another provider"),
                    errhint("Delete it, and store the tokens that the other provider gave.")));
}

void FeedInserted(TriggerData* trigger, const TokenTable& table) {
  PlannedRow row = {};
  ReadPlannedRow(trigger->tg_trigtuple, RelationGetDescr(trigger->tg_relation), table, &row);
  WriteSchedule(row, {});
}

// A grant that is known to be dead stays so until it gets another refresh token, or the application says another
// status; that it is disconnected the application itself has said, and takes back by the status alone.
void FeedUpdated(TriggerData* trigger, const TokenTable& table) {
  HeapTuple before = trigger->tg_trigtuple;
  HeapTuple now = trigger->tg_newtuple;
  TupleDesc desc = RelationGetDescr(trigger->tg_relation);
  PlannedRow row = {};
  ReadPlannedRow(now, desc, table, &row);
  RefuseOtherProvider(trigger, table);
  const bool same_status = SameText(before, now, desc, table, kColumnStatus);
  Unchanged unchanged;
  unchanged.refresh_token = SameBytes(before, now, desc, table, kColumnRefreshToken);
  unchanged.tokens = unchanged.refresh_token && SameBytes(before, now, desc, table, kColumnAccessToken);
  unchanged.verdict = unchanged.refresh_token && same_status;
  const bool was_dead = same_status && row.status != nullptr && strcmp(row.status, "needs_reauth") == 0;
  if (was_dead && !unchanged.refresh_token) row.status = nullptr;
  WriteSchedule(row, unchanged);
  if (!unchanged.tokens) ResolveParkedSoon(row);
}

void Feed(TriggerData* trigger) {
  OwnerScope scope;
  EnterOwnerScope(&scope);
  const TokenTable* table = GetTokenTable(pg_strtoint32(trigger->tg_trigger->tgargs[0]));
  if (RelationGetRelid(trigger->tg_relation) != table->relation)
    ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                    errmsg("this trigger belongs to token table %s alone", table->quoted_name)));
  if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
    ClearTable(table->id);
  else if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
    DeleteScheduled(table->id, ColumnText(trigger->tg_trigtuple, RelationGetDescr(trigger->tg_relation), *table, kColumnKey));
  else if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
    FeedUpdated(trigger, *table);
  else
    FeedInserted(trigger, *table);
  LeaveOwnerScope(&scope);
}

}  // namespace

void SetOwnWrites(bool on) { own_writes = on; }

}  // namespace token_refresh

extern "C" Datum token_refresh_feed_schedule(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  if (!CALLED_AS_TRIGGER(fcinfo)) elog(ERROR, "token_refresh: not called as a trigger");
  if (!own_writes && !own_writes_until_end) Feed(reinterpret_cast<TriggerData*>(fcinfo->context));
  return PointerGetDatum(nullptr);
}

extern "C" Datum token_refresh_plan_row(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  for (int i : {0, 1, 2, 3})
    if (PG_ARGISNULL(i)) PG_RETURN_VOID();
  PlannedRow row = {};
  row.token_table = PG_GETARG_INT32(0);
  row.row_key = text_to_cstring(PG_GETARG_TEXT_PP(1));
  row.provider = text_to_cstring(PG_GETARG_TEXT_PP(2));
  row.has_refresh_token = PG_GETARG_BOOL(3);
  row.status = PG_ARGISNULL(4) ? nullptr : text_to_cstring(PG_GETARG_TEXT_PP(4));
  row.issued_at = PG_ARGISNULL(5) ? GetCurrentTimestamp() : PG_GETARG_TIMESTAMPTZ(5);
  row.expires = !PG_ARGISNULL(6);
  row.expires_at = row.expires ? PG_GETARG_TIMESTAMPTZ(6) : 0;
  row.refresh_expires = !PG_ARGISNULL(7);
  row.refresh_expires_at = row.refresh_expires ? PG_GETARG_TIMESTAMPTZ(7) : 0;
  OwnerScope scope;
  EnterOwnerScope(&scope);
  // Timing has changed, or the trigger was not there to see it: what the row says counts, but it tells of no new tokens.
  WriteSchedule(row, {.verdict = false, .refresh_token = true, .tokens = true});
  LeaveOwnerScope(&scope);
  PG_RETURN_VOID();
}

extern "C" Datum token_refresh_own_writes(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  static bool registered = false;
  if (!registered) {
    RegisterXactCallback(EndOwnWrites, nullptr);
    registered = true;
  }
  own_writes_until_end = PG_GETARG_BOOL(0);
  PG_RETURN_VOID();
}
