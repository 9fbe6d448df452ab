#include "pg/feed.h"

#include "core/refresh_policy.h"
#include "pg/boundary.h"
#include "pg/catalog.h"
#include "pg/owner_scope.h"
#include "pg/provider_cache.h"
#include "pg/settings.h"
#include "pg/table_scope.h"
#include "pg/table_sql.h"
#include "pg/wakeup.h"

extern "C" {
#include "access/detoast.h"
#include "catalog/partition.h"
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
    "INSERT INTO token_refresh.schedule AS s (token_table, row_key, provider, status, due_at, expires_at, subject, label,"
    " left_alone, failure, message) VALUES ($1, $2, $3, $4, $5, $6, $11, $12, $13, $14, $15)"
    " ON CONFLICT (token_table, row_key) DO UPDATE SET provider = excluded.provider, subject = excluded.subject,"
    " label = excluded.label, left_alone = excluded.left_alone,"
    " status = CASE WHEN $8 AND s.status = 'needs_reauth' THEN s.status ELSE excluded.status END,"
    " due_at = CASE WHEN NOT ($8 AND s.status = 'needs_reauth')"
    " THEN $7 + (s.due_at IS NOT DISTINCT FROM $7)::integer * interval '1 microsecond' END,"
    " expires_at = excluded.expires_at, attempts = 0, lost_response = $9 AND s.lost_response,"
    " failure = CASE WHEN $8 AND s.status = 'needs_reauth' THEN s.failure ELSE excluded.failure END,"
    " message = CASE WHEN $8 AND s.status = 'needs_reauth' THEN s.message ELSE excluded.message END,"
    " generation = s.generation + (NOT $10)::integer";
constexpr const char* kDeleteSchedule = "DELETE FROM token_refresh.schedule WHERE token_table = $1 AND row_key = $2";
constexpr const char* kDeleteParked =
    "DELETE FROM token_refresh.parked_result WHERE token_table = $1 AND row_key = $2";
constexpr const char* kResolveParked =
    "UPDATE token_refresh.parked_result SET retry_at = now() WHERE token_table = $1 AND row_key = $2";
constexpr const char* kClearSchedule = "DELETE FROM token_refresh.schedule WHERE token_table = $1";
constexpr const char* kClearParked = "DELETE FROM token_refresh.parked_result WHERE token_table = $1";

int32_t own_writes = 0;
bool own_writes_until_end = false;

void EndOwnWrites(XactEvent event, void*) {
  if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
    own_writes_until_end = false;
}

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

// When the row is due if the schedule does not know it yet.
std::optional<Micros> FirstDue(const PlannedRow& row, const std::optional<Micros>& due) {
  const Micros settled = FromTimestamp(GetCurrentTimestamp()) - kSettleTime;
  const bool new_tokens = row.issued && FromTimestamp(row.issued_at) > settled;
  const bool new_table = FromTimestamp(row.table->attached_at) > settled;
  if (!due || new_tokens || new_table) return due;
  return Max(*due, settled + 2 * kSettleTime);
}

const KnownProvider* ProviderOf(const PlannedRow& row) {
  const KnownProvider* provider = row.provider == nullptr ? nullptr : FindProvider(row.provider);
  // What an application writes into its own table must not fail for this.
  if (provider == nullptr && row.table->built_in)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("unknown provider \"%s\"", row.provider),
                    errhint("Create it with token_refresh.create_provider().")));
  return provider;
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

// Caller is in an OwnerScope.
void WriteSchedule(const PlannedRow& row, const Unchanged& unchanged) {
  static SPIPlanPtr plan = nullptr;
  Oid types[] = {INT4OID, TEXTOID, INT4OID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, BOOLOID,
                 BOOLOID, BOOLOID, TEXTOID, TEXTOID, BOOLOID,        TEXTOID,        TEXTOID};
  const KnownProvider* provider = ProviderOf(row);
  const char* missing = MissingProvider(row, provider);
  const bool dead = row.status == kNeedsReauth || row.status == kDisconnected;
  std::optional<Micros> due = dead || provider == nullptr ? std::nullopt : ComputeDue(row, *provider);
  char nulls[] = "               ";
  Datum values[] = {Int32GetDatum(row.table->id),
                    CStringGetTextDatum(row.row_key),
                    Int32GetDatum(provider != nullptr ? provider->id : kUnknownProvider),
                    CStringGetTextDatum(dead ? kStatusWords[row.status] : missing != nullptr ? "error" : "connected"),
                    TimeOr(FirstDue(row, due), &nulls[4]),
                    TimestampTzGetDatum(row.expires_at),
                    TimeOr(due, &nulls[6]),
                    BoolGetDatum(unchanged.verdict),
                    BoolGetDatum(unchanged.refresh_token),
                    BoolGetDatum(unchanged.tokens),
                    TextOr(row.table->built_in ? nullptr : row.subject, &nulls[10]),
                    TextOr(row.table->built_in ? nullptr : row.label, &nulls[11]),
                    BoolGetDatum(row.left_alone),
                    TextOr(missing != nullptr ? "client_config" : nullptr, &nulls[13]),
                    TextOr(missing, &nulls[14])};
  if (!row.expires) nulls[5] = 'n';
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
  if (!Has(table, column)) return 0;
  return SPI_getbinval(tuple, desc, SPI_fnumber(desc, table.columns[column].name), is_null);
}

char* ColumnText(HeapTuple tuple, TupleDesc desc, const TokenTable& table, TokenColumn column) {
  if (!Has(table, column)) return nullptr;
  return SPI_getvalue(tuple, desc, SPI_fnumber(desc, table.columns[column].name));
}

bool ColumnTime(HeapTuple tuple, TupleDesc desc, const TokenTable& table, TokenColumn column, TimestampTz* time) {
  bool is_null;
  Datum value = Column(tuple, desc, table, column, &is_null);
  return ReadTime(table, column, value, is_null, time);
}

void ReadPlannedRow(HeapTuple tuple, TupleDesc desc, const TokenTable& table, PlannedRow* row) {
  bool is_null;
  row->table = &table;
  row->row_key = RowKey(table, tuple, desc);
  row->provider = Has(table, kColumnProvider) ? ColumnText(tuple, desc, table, kColumnProvider)
                                              : const_cast<char*>(table.provider);
  row->subject = Has(table, kColumnSubject) ? ColumnText(tuple, desc, table, kColumnSubject) : row->row_key;
  row->label = Has(table, kColumnLabel) ? ColumnText(tuple, desc, table, kColumnLabel) : const_cast<char*>(table.label);
  row->status = StatusOf(table, ColumnText(tuple, desc, table, kColumnStatus));
  Datum token = Column(tuple, desc, table, kColumnRefreshToken, &is_null);
  row->has_refresh_token = !is_null && toast_raw_datum_size(token) > VARHDRSZ;
  row->issued = ColumnTime(tuple, desc, table, kColumnIssuedAt, &row->issued_at);
  row->expires = ColumnTime(tuple, desc, table, kColumnExpiresAt, &row->expires_at);
  row->refresh_expires = ColumnTime(tuple, desc, table, kColumnRefreshExpiresAt, &row->refresh_expires_at);
}

// For columns of varying length.
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
  Datum values[] = {Int32GetDatum(row.table->id), CStringGetTextDatum(row.row_key)};
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

void SetIssuedNow(PlannedRow* row) {
  if (row->issued) return;
  row->issued = true;
  row->issued_at = GetCurrentTimestamp();
}

void FeedInserted(TriggerData* trigger, const TokenTable& table) {
  PlannedRow row = {};
  ReadPlannedRow(trigger->tg_trigtuple, RelationGetDescr(trigger->tg_relation), table, &row);
  SetIssuedNow(&row);
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
  if (table.built_in) RefuseOtherProvider(trigger, table);
  const char* old_key = RowKey(table, before, desc);
  if (strcmp(old_key, row.row_key) != 0) DeleteScheduled(table.id, old_key);
  const bool same_status = SameText(before, now, desc, table, kColumnStatus);
  Unchanged unchanged;
  unchanged.refresh_token = SameBytes(before, now, desc, table, kColumnRefreshToken);
  unchanged.tokens = unchanged.refresh_token && SameBytes(before, now, desc, table, kColumnAccessToken);
  unchanged.verdict = unchanged.refresh_token && same_status;
  if (same_status && row.status == kNeedsReauth && !unchanged.refresh_token) row.status = kConnected;
  if (!unchanged.tokens) SetIssuedNow(&row);
  WriteSchedule(row, unchanged);
  if (!unchanged.tokens) ResolveParkedSoon(row);
}

// A row that has moved to another partition keeps what is parked for it; the sweep drops what belongs to nothing.
void FeedDeleted(TriggerData* trigger, const TokenTable& table) {
  const char* row_key = RowKey(table, trigger->tg_trigtuple, RelationGetDescr(trigger->tg_relation));
  DeleteScheduled(table.id, row_key);
  if (!trigger->tg_relation->rd_rel->relispartition) DeleteParked(table.id, row_key);
}

bool BelongsTo(Relation relation, const TokenTable& table) {
  const Oid id = RelationGetRelid(relation);
  return id == table.relation ||
         (relation->rd_rel->relispartition && list_member_oid(get_partition_ancestors(id), table.relation));
}

void FeedTable(TriggerData* trigger, const TokenTable& table) {
  if (!BelongsTo(trigger->tg_relation, table))
    ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                    errmsg("this trigger belongs to token table %s alone", table.quoted_name)));
  if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
    ClearTable(table.id);
  else if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
    FeedDeleted(trigger, table);
  else if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
    FeedUpdated(trigger, table);
  else
    FeedInserted(trigger, table);
}

void Feed(TriggerData* trigger) {
  OwnerScope scope;
  EnterOwnerScope(&scope);
  const TokenTable* table = GetTokenTable(pg_strtoint32(trigger->tg_trigger->tgargs[0]));
  if (table->key_text_varies) FixKeyText();
  // With a table that has lost a column the application must be able to go on; the sweep says what is wrong.
  if (table->trouble == nullptr && !table->detached) FeedTable(trigger, *table);
  LeaveOwnerScope(&scope);
}

}  // namespace

void SetOwnWrites(int32_t token_table) { own_writes = token_table; }

void PlanRow(const PlannedRow& row) {
  // Timing has changed, or the trigger was not there to see it: what the row says counts, but it tells of no new tokens.
  WriteSchedule(row, {.verdict = false, .refresh_token = true, .tokens = true});
}

}  // namespace token_refresh

extern "C" Datum token_refresh_feed_schedule(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  if (!CALLED_AS_TRIGGER(fcinfo)) elog(ERROR, "token_refresh: not called as a trigger");
  TriggerData* trigger = reinterpret_cast<TriggerData*>(fcinfo->context);
  if (trigger->tg_trigger->tgnargs != 1) elog(ERROR, "token_refresh: the trigger has lost its argument");
  const bool own = own_writes != 0 && own_writes == pg_strtoint32(trigger->tg_trigger->tgargs[0]);
  if (!own && !own_writes_until_end) Feed(trigger);
  return PointerGetDatum(nullptr);
}

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
  PlanRow(row);
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
