#include "pg/feed.h"

#include "pg/owner_scope.h"
#include "pg/schedule_moves.h"
#include "pg/schedule_plan.h"
#include "pg/statements.h"
#include "pg/table_key_sql.h"
#include "pg/table_scope.h"
#include "pg/table_sql.h"
#include "pg/table_time.h"
#include "pg/wakeup.h"

extern "C" {
#include "access/detoast.h"
#include "catalog/partition.h"
#include "mb/pg_wchar.h"
#include "utils/datum.h"

PG_FUNCTION_INFO_V1(token_refresh_feed_schedule);
PG_FUNCTION_INFO_V1(token_refresh_own_writes);
}

namespace token_refresh {

namespace {

Statement resolve_parked = {
    "UPDATE token_refresh.parked_result p SET retry_at = now() FROM token_refresh.schedule s"
    " WHERE s.token_table = $1 AND s.row_key = $2 AND p.schedule_id = s.id", 2,
    {INT4OID, TEXTOID}, nullptr};
constexpr const char* kClearSchedule = "DELETE FROM token_refresh.schedule WHERE token_table = $1";
constexpr const char* kClearParked =
    "DELETE FROM token_refresh.parked_result WHERE token_table = $1 OR token_table = 0 AND $1 = 1";

// What of a row says when it falls due, and whose it is. The key comes in addition.
constexpr TokenColumn kWatchedColumns[] = {
    kColumnProvider, kColumnSubject,   kColumnLabel,            kColumnAccessToken, kColumnRefreshToken,
    kColumnIssuedAt, kColumnExpiresAt, kColumnRefreshExpiresAt, kColumnStatus};

int32_t own_writes = 0;
bool own_writes_until_end = false;

void EndOwnWrites(XactEvent event, void*) {
  if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE) return;
  own_writes = 0;
  own_writes_until_end = false;
}

// An error may keep us from saying that they are over.
void EndOwnWritesWithTransaction() {
  static bool registered = false;
  if (!registered) RegisterXactCallback(EndOwnWrites, nullptr);
  registered = true;
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

// Null: none that the schedule can hold. The row is left alone then, and the application goes on.
char* KeyOf(HeapTuple tuple, TupleDesc desc, const TokenTable& table) {
  char* row_key = RowKey(table, tuple, desc);
  if (IsUsableKey(row_key)) return row_key;
  if (row_key != nullptr)
    ereport(WARNING, (errmsg("token_refresh leaves a row of table %s alone, as its key is longer than %zu bytes",
                             table.quoted_name, kLongestRowKey)));
  return nullptr;
}

// As much of it as the sweep would read.
char* Cut(char* text) {
  if (text != nullptr) text[pg_mbcharcliplen(text, static_cast<int>(strlen(text)), kMostCharacters)] = '\0';
  return text;
}

void ReadPlannedRow(HeapTuple tuple, TupleDesc desc, const TokenTable& table, PlannedRow* row) {
  bool is_null;
  row->table = &table;
  row->row_key = KeyOf(tuple, desc, table);
  row->provider = Has(table, kColumnProvider) ? ColumnText(tuple, desc, table, kColumnProvider)
                                              : const_cast<char*>(table.provider);
  row->subject = Has(table, kColumnSubject) ? Cut(ColumnText(tuple, desc, table, kColumnSubject)) : row->row_key;
  row->label = Has(table, kColumnLabel) ? Cut(ColumnText(tuple, desc, table, kColumnLabel))
                                        : const_cast<char*>(table.label != nullptr ? table.label : "");
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
  Datum values[] = {Int32GetDatum(row.table->id), CStringGetTextDatum(row.row_key)};
  if (Execute(&resolve_parked, values, false) > 0) WakeRefresherAtCommit(GetCurrentTimestamp());
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

TokenDigests DigestsOf(HeapTuple tuple, TupleDesc desc, const TokenTable& table) {
  bool no_refresh, no_access;
  Datum refresh = Column(tuple, desc, table, kColumnRefreshToken, &no_refresh);
  Datum access = Column(tuple, desc, table, kColumnAccessToken, &no_access);
  return {DigestOf(refresh, no_refresh), DigestOf(access, no_access)};
}

// It may be one that has just been deleted elsewhere.
void FeedInserted(HeapTuple tuple, TupleDesc desc, const TokenTable& table) {
  PlannedRow row = {};
  ReadPlannedRow(tuple, desc, table, &row);
  if (row.row_key == nullptr) return;
  const Heritage heritage = TakeOver(row, DigestsOf(tuple, desc, table));
  const Unchanged unchanged = UnchangedAfter(heritage, table);
  row.schedule_id = heritage.schedule_id;
  if (!unchanged.tokens) SetIssuedNow(&row);
  PlanWrittenRow(row, unchanged);
}

void FeedDeleted(HeapTuple tuple, TupleDesc desc, const TokenTable& table) {
  const char* row_key = KeyOf(tuple, desc, table);
  if (row_key != nullptr) LeaveBehind(table.id, row_key, DigestsOf(tuple, desc, table));
}

// A grant that is known to be dead stays so until it gets another refresh token, or the application says another
// status; that it is disconnected the application itself has said, and takes back by the status alone.
void FeedUpdated(TriggerData* trigger, const TokenTable& table) {
  HeapTuple before = trigger->tg_trigtuple;
  HeapTuple now = trigger->tg_newtuple;
  TupleDesc desc = RelationGetDescr(trigger->tg_relation);
  const char* old_key = KeyOf(before, desc, table);
  if (old_key == nullptr) return FeedInserted(now, desc, table);
  PlannedRow row = {};
  ReadPlannedRow(now, desc, table, &row);
  if (row.row_key == nullptr) return FeedDeleted(before, desc, table);
  if (table.built_in) RefuseOtherProvider(trigger, table);
  if (strcmp(old_key, row.row_key) != 0) MoveKey(table.id, old_key, row.row_key);
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

bool Differs(TriggerData* trigger, const char* column) {
  TupleDesc desc = RelationGetDescr(trigger->tg_relation);
  const int number = SPI_fnumber(desc, column);
  if (number <= 0) return true;
  bool a_null, b_null;
  Datum a = heap_getattr(trigger->tg_trigtuple, number, desc, &a_null);
  Datum b = heap_getattr(trigger->tg_newtuple, number, desc, &b_null);
  if (a_null || b_null) return a_null != b_null;
  const Form_pg_attribute form = TupleDescAttr(desc, number - 1);
  return !datumIsEqual(a, b, form->attbyval, form->attlen);
}

// This runs for every row that the application updates, whatever it is that it changes.
bool IsNews(TriggerData* trigger, const TokenTable& table) {
  if (!TRIGGER_FIRED_BY_UPDATE(trigger->tg_event)) return true;
  for (int i = 0; i < table.key_count; i++)
    if (Differs(trigger, table.keys[i].name)) return true;
  for (TokenColumn column : kWatchedColumns)
    if (Has(table, column) && Differs(trigger, table.columns[column].name)) return true;
  return false;
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
    FeedDeleted(trigger->tg_trigtuple, RelationGetDescr(trigger->tg_relation), table);
  else if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
    FeedUpdated(trigger, table);
  else
    FeedInserted(trigger->tg_trigtuple, RelationGetDescr(trigger->tg_relation), table);
}

// Anybody may put the function on a table in a trigger of another kind, which has no rows at hand.
void RequireOurTrigger(const TriggerData* trigger) {
  const TriggerEvent event = trigger->tg_event;
  const bool statement = TRIGGER_FIRED_FOR_STATEMENT(event);
  if (!TRIGGER_FIRED_AFTER(event) || statement != TRIGGER_FIRED_BY_TRUNCATE(event) || trigger->tg_trigger->tgnargs != 1)
    ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                    errmsg("trigger \"%s\" is none that token_refresh has made", trigger->tg_trigger->tgname)));
}

void Feed(TriggerData* trigger) {
  OwnerScope scope;
  EnterOwnerScope(&scope);
  const TokenTable* table = FindTokenTable(pg_strtoint32(trigger->tg_trigger->tgargs[0]));
  if (table != nullptr && table->key_text_varies) FixKeyText();
  // With a table that has lost a column the application must be able to go on; the sweep says what is wrong.
  if (table != nullptr && table->trouble == nullptr && IsNews(trigger, *table)) FeedTable(trigger, *table);
  LeaveOwnerScope(&scope);
}

}  // namespace

void SetOwnWrites(int32_t token_table) {
  EndOwnWritesWithTransaction();
  own_writes = token_table;
}

}  // namespace token_refresh

extern "C" Datum token_refresh_feed_schedule(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  if (!CALLED_AS_TRIGGER(fcinfo)) elog(ERROR, "token_refresh: not called as a trigger");
  TriggerData* trigger = reinterpret_cast<TriggerData*>(fcinfo->context);
  RequireOurTrigger(trigger);
  const int32_t token_table = pg_strtoint32(trigger->tg_trigger->tgargs[0]);
  const bool own = own_writes != 0 && own_writes == token_table;
  if (own || own_writes_until_end) return PointerGetDatum(nullptr);
  // Most updates end here, without a look at any other table.
  const TokenTable* table = CurrentTokenTable(token_table);
  if (table == nullptr || (table->trouble == nullptr && IsNews(trigger, *table))) Feed(trigger);
  return PointerGetDatum(nullptr);
}

extern "C" Datum token_refresh_own_writes(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  EndOwnWritesWithTransaction();
  own_writes_until_end = PG_GETARG_BOOL(0);
  PG_RETURN_VOID();
}
