#include "pg/feed.h"

#include "pg/owner_scope.h"
#include "pg/schedule_plan.h"
#include "pg/statements.h"
#include "pg/table_scope.h"
#include "pg/table_sql.h"
#include "pg/wakeup.h"

extern "C" {
#include "access/detoast.h"
#include "catalog/partition.h"

PG_FUNCTION_INFO_V1(token_refresh_feed_schedule);
PG_FUNCTION_INFO_V1(token_refresh_own_writes);
}

namespace token_refresh {

namespace {

Statement delete_schedule = {"DELETE FROM token_refresh.schedule WHERE token_table = $1 AND row_key = $2", 2,
                             {INT4OID, TEXTOID}, nullptr};
Statement delete_parked = {"DELETE FROM token_refresh.parked_result WHERE token_table = $1 AND row_key = $2", 2,
                           {INT4OID, TEXTOID}, nullptr};
Statement resolve_parked = {
    "UPDATE token_refresh.parked_result SET retry_at = now() WHERE token_table = $1 AND row_key = $2", 2,
    {INT4OID, TEXTOID}, nullptr};
constexpr const char* kClearSchedule = "DELETE FROM token_refresh.schedule WHERE token_table = $1";
constexpr const char* kClearParked = "DELETE FROM token_refresh.parked_result WHERE token_table = $1";

int32_t own_writes = 0;
bool own_writes_until_end = false;

void EndOwnWrites(XactEvent event, void*) {
  if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
    own_writes_until_end = false;
}

uint64 ExecuteOnRow(Statement* statement, int32_t token_table, const char* row_key) {
  Datum values[] = {Int32GetDatum(token_table), CStringGetTextDatum(row_key)};
  return Execute(statement, values, false);
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
  if (ExecuteOnRow(&resolve_parked, row.table->id, row.row_key) > 0) WakeRefresherAtCommit(GetCurrentTimestamp());
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
  PlanWrittenRow(row, {});
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
  if (strcmp(old_key, row.row_key) != 0) ExecuteOnRow(&delete_schedule, table.id, old_key);
  const bool same_status = SameText(before, now, desc, table, kColumnStatus);
  Unchanged unchanged;
  unchanged.refresh_token = SameBytes(before, now, desc, table, kColumnRefreshToken);
  unchanged.tokens = unchanged.refresh_token && SameBytes(before, now, desc, table, kColumnAccessToken);
  unchanged.verdict = unchanged.refresh_token && same_status;
  if (same_status && row.status == kNeedsReauth && !unchanged.refresh_token) row.status = kConnected;
  if (!unchanged.tokens) SetIssuedNow(&row);
  PlanWrittenRow(row, unchanged);
  if (!unchanged.tokens) ResolveParkedSoon(row);
}

// A row that has moved to another partition keeps what is parked for it; the sweep drops what belongs to nothing.
void FeedDeleted(TriggerData* trigger, const TokenTable& table) {
  const char* row_key = RowKey(table, trigger->tg_trigtuple, RelationGetDescr(trigger->tg_relation));
  ExecuteOnRow(&delete_schedule, table.id, row_key);
  if (!trigger->tg_relation->rd_rel->relispartition) ExecuteOnRow(&delete_parked, table.id, row_key);
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
