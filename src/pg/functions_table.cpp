// SQL functions attach_table and detach_table: the owner of a table hands its tokens to the
// refresher, and takes them back. Everything is checked first; nothing is changed when
// something is wrong.
#include "pg/arguments.h"
#include "pg/attach_checks.h"
#include "pg/catalog.h"
#include "pg/owner_scope.h"
#include "pg/token_tables.h"
#include "pg/wakeup.h"

extern "C" {
#include "catalog/dependency.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_trigger.h"
#include "storage/lmgr.h"

PG_FUNCTION_INFO_V1(token_refresh_attach_table);
PG_FUNCTION_INFO_V1(token_refresh_detach_table);
}

namespace token_refresh {

namespace {

constexpr const char* kInsertTable =
    "WITH former AS (DELETE FROM token_refresh.former_token_table WHERE relation = $1 RETURNING id)"
    " INSERT INTO token_refresh.token_table (id, relation, key_columns, columns, provider, label, filter, cipher,"
    " cipher_key, decrypt_function, encrypt_function, status_values, result_values, time_zone, has_trigger,"
    " poll_interval, refresh_margin, owner, alias) VALUES (coalesce((SELECT id FROM former),"
    " nextval('token_refresh.token_table_id_seq')), $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,"
    " $16, (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = $1), $17) RETURNING id";
constexpr const char* kAudit =
    "INSERT INTO token_refresh.audit_event (event, token_table, message) VALUES ($1, $2, $3)";
constexpr const char* kLockTable = "SELECT FROM token_refresh.token_table WHERE id = $1 FOR UPDATE";
// A note goes when the last of its claims is settled, so it may name some that have been.
constexpr const char* kCountInFlight =
    "SELECT count(*) FROM token_refresh.in_flight f, unnest(f.schedule_ids) AS u(id), token_refresh.schedule s"
    " WHERE s.id = u.id AND s.token_table = $1 AND (s.last_refreshed_at >= f.claimed_at) IS NOT TRUE";
constexpr const char* kCountParked =
    "SELECT count(*) FROM token_refresh.parked_result p JOIN token_refresh.schedule s ON s.id = p.schedule_id"
    " WHERE p.token_table = $1 AND s.row_key IS NOT NULL";
constexpr const char* kForgetTable =
    "WITH scheduled AS (DELETE FROM token_refresh.schedule WHERE token_table = $1),"
    " parked AS (DELETE FROM token_refresh.parked_result WHERE token_table = $1 AND NOT $2),"
    " former AS (INSERT INTO token_refresh.former_token_table (relation, id)"
    "  SELECT relation, id FROM token_refresh.token_table WHERE id = $1)"
    " DELETE FROM token_refresh.token_table WHERE id = $1";
// How long a table that is to be detached waits for answers, and how often it looks for them.
constexpr long kMostWaitMs = 5000;
constexpr long kLookAgainMs = 20;
constexpr const char* kRowTrigger = "token_refresh_feed";
constexpr const char* kTruncateTrigger = "token_refresh_feed_truncate";

const char* QuotedName(Oid relation) {
  return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)), get_rel_name(relation));
}

Datum TextOrNull(const char* text, char* null) {
  *null = text == nullptr ? 'n' : ' ';
  return text == nullptr ? 0 : CStringGetTextDatum(text);
}

Datum PointerOrNull(const void* pointer, char* null) {
  *null = pointer == nullptr ? 'n' : ' ';
  return PointerGetDatum(pointer);
}

const char* FunctionOrNull(const FunctionName& function) {
  return function.schema == nullptr ? nullptr : quote_qualified_identifier(function.schema, function.name);
}

int32_t InsertTable(Oid relation, const AttachPlan& plan) {
  Oid types[] = {REGCLASSOID, TEXTARRAYOID, JSONBOID, TEXTOID,  TEXTOID,  TEXTOID, TEXTOID, TEXTOID,
                 TEXTOID,     TEXTOID,      JSONBOID, JSONBOID, TEXTOID,  BOOLOID, INTERVALOID, INTERVALOID,
                 NAMEOID};
  char nulls[lengthof(types) + 1] = "                 ";
  Datum values[] = {ObjectIdGetDatum(relation),
                    PointerGetDatum(plan.key_columns),
                    JsonbPGetDatum(plan.columns),
                    TextOrNull(plan.provider, &nulls[3]),
                    TextOrNull(plan.label, &nulls[4]),
                    TextOrNull(plan.filter, &nulls[5]),
                    CStringGetTextDatum(plan.cipher),
                    TextOrNull(plan.cipher_key, &nulls[7]),
                    TextOrNull(FunctionOrNull(plan.decrypt), &nulls[8]),
                    TextOrNull(FunctionOrNull(plan.encrypt), &nulls[9]),
                    PointerOrNull(plan.status_values, &nulls[10]),
                    PointerOrNull(plan.result_values, &nulls[11]),
                    CStringGetTextDatum(plan.time_zone),
                    BoolGetDatum(plan.trigger),
                    PointerOrNull(plan.poll_interval, &nulls[14]),
                    PointerOrNull(plan.refresh_margin, &nulls[15]),
                    DirectFunctionCall1(namein, CStringGetDatum(get_rel_name(relation)))};
  if (SPI_execute_with_args(kInsertTable, lengthof(types), types, values, nulls, false, 0) != SPI_OK_INSERT_RETURNING)
    elog(ERROR, "token_refresh: writing token_table failed");
  bool is_null;
  return DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
}

void Run(const char* sql) {
  if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY) elog(ERROR, "token_refresh: a command failed");
}

// As ALTER TRIGGER ... DEPENDS ON EXTENSION, which would lock readers out of the table.
void DependOnExtension(Oid relation, const char* trigger) {
  ObjectAddress dependent, extension;
  ObjectAddressSet(dependent, TriggerRelationId, get_trigger_oid(relation, trigger, false));
  ObjectAddressSet(extension, ExtensionRelationId, get_extension_oid(kSchema, false));
  recordDependencyOn(&dependent, &extension, DEPENDENCY_AUTO_EXTENSION);
}

// A new partition gets its triggers in the name of whoever makes it. The function serves attached tables only.
void LetAddPartitions(Oid relation) {
  Relation table = relation_open(relation, AccessShareLock);
  const char* owner = quote_identifier(GetUserNameFromId(table->rd_rel->relowner, false));
  relation_close(table, AccessShareLock);
  Run(psprintf("GRANT EXECUTE ON FUNCTION token_refresh._feed_schedule() TO %s", owner));
}

// The triggers go by themselves with the extension, and with the table.
void InstallTriggers(int32_t id, Oid relation) {
  const char* table = QuotedName(relation);
  Run(psprintf("CREATE TRIGGER %s AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW"
               " EXECUTE FUNCTION token_refresh._feed_schedule('%d')", kRowTrigger, table, id));
  Run(psprintf("CREATE TRIGGER %s AFTER TRUNCATE ON %s FOR EACH STATEMENT"
               " EXECUTE FUNCTION token_refresh._feed_schedule('%d')", kTruncateTrigger, table, id));
  for (const char* trigger : {kRowTrigger, kTruncateTrigger}) DependOnExtension(relation, trigger);
  if (get_rel_relkind(relation) == RELKIND_PARTITIONED_TABLE) LetAddPartitions(relation);
}

void Audit(const char* event, int32_t id, const char* message) {
  Oid types[] = {TEXTOID, INT4OID, TEXTOID};
  Datum values[] = {CStringGetTextDatum(event), Int32GetDatum(id), CStringGetTextDatum(message)};
  if (SPI_execute_with_args(kAudit, lengthof(types), types, values, nullptr, false, 0) != SPI_OK_INSERT)
    elog(ERROR, "token_refresh: writing the audit failed");
}

int32_t Attach(Oid relation, const AttachPlan& plan) {
  OwnerScope scope;
  EnterOwnerScope(&scope);
  if (TokenTableOf(relation) != 0)
    ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT), errmsg("table %s is attached already", QuotedName(relation)),
                    errhint("To attach it with other options, detach it first.")));
  int32_t id = InsertTable(relation, plan);
  if (plan.trigger) InstallTriggers(id, relation);
  Problems problems;
  InitProblems(&problems);
  TryTable(id, &problems);
  RaiseProblems(problems, relation);
  Audit("table_attached", id, QuotedName(relation));
  WakeAllAtCommit();
  LeaveOwnerScope(&scope);
  return id;
}

// As of now, whatever snapshot the transaction has.
int64 CountNow(const char* sql, int32_t id) {
  Oid types[] = {INT4OID};
  Datum values[] = {Int32GetDatum(id)};
  PushActiveSnapshot(GetLatestSnapshot());
  if (SPI_execute_with_args(sql, 1, types, values, nullptr, true, 0) != SPI_OK_SELECT)
    elog(ERROR, "token_refresh: counting what belongs to a table failed");
  PopActiveSnapshot();
  bool is_null;
  return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
}

// From here on the refresher claims nothing of the table (HoldTokenTable), but stores what it is answered.
void StopClaims(int32_t id) {
  Oid types[] = {INT4OID};
  Datum values[] = {Int32GetDatum(id)};
  if (SPI_execute_with_args(kLockTable, 1, types, values, nullptr, false, 0) != SPI_OK_SELECT)
    elog(ERROR, "token_refresh: locking a row of token_table failed");
}

// An answer that came when the table has been detached would be lost with the refresh token in it.
void AwaitAnswers(int32_t id, Oid relation) {
  const TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), kMostWaitMs);
  int64 asked;
  while ((asked = CountNow(kCountInFlight, id)) > 0 && GetCurrentTimestamp() < until) {
    (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, kLookAgainMs, PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
  }
  if (asked > 0)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE),
                    errmsg("providers are being asked for " INT64_FORMAT " token(s) of table %s", asked, QuotedName(relation)),
                    errdetail("Without the answers the grants may be lost."),
                    errhint("Try again. If the refresher has stopped, let it start first.")));
}

// Tokens that the table has not taken yet would be lost with it.
void RequireNothingParked(int32_t id, Oid relation) {
  const int64 parked = CountNow(kCountParked, id);
  if (parked > 0)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE),
                    errmsg("table %s has not taken " INT64_FORMAT " refreshed token(s) yet", QuotedName(relation), parked),
                    errdetail("Without them the grants are lost: the refresh tokens in the table have been replaced."),
                    errhint("last_error in token_refresh.token_status says why. Mend that, and detach again.")));
}

void Detach(Oid relation) {
  OwnerScope scope;
  EnterOwnerScope(&scope);
  int32_t id = TokenTableOf(relation);
  if (id == 0)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("table %s is not attached", QuotedName(relation))));
  // What is parked cannot be stored then: it waits until the new owner attaches the table.
  const bool another_owner = GetTokenTable(id)->owner_changed;
  StopClaims(id);
  AwaitAnswers(id, relation);
  if (!another_owner) RequireNothingParked(id, relation);
  for (const char* trigger : {kRowTrigger, kTruncateTrigger})
    Run(psprintf("DROP TRIGGER IF EXISTS %s ON %s", trigger, QuotedName(relation)));
  Oid types[] = {INT4OID, BOOLOID};
  Datum values[] = {Int32GetDatum(id), BoolGetDatum(another_owner)};
  if (SPI_execute_with_args(kForgetTable, 2, types, values, nullptr, false, 0) != SPI_OK_DELETE)
    elog(ERROR, "token_refresh: writing token_table failed");
  Audit("table_detached", id, QuotedName(relation));
  // Nothing of its description is needed any more.
  (void)FindTokenTable(id);
  LeaveOwnerScope(&scope);
}

}  // namespace

}  // namespace token_refresh

extern "C" Datum token_refresh_attach_table(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  RequireArgument(fcinfo, 0, "table_name");
  RequireArgument(fcinfo, 1, "options");
  Oid relation = PG_GETARG_OID(0);
  RequireAttachable(relation);
  // Nobody may alter the table, nor give it away, between the checks and COMMIT.
  LockRelationOid(relation, AccessShareLock);
  RequireAttachable(relation);
  AttachPlan plan = {};
  Problems problems;
  InitProblems(&problems);
  ReadAttachOptions(PG_GETARG_JSONB_P(1), &plan, &problems);
  CheckPlan(relation, &plan, &problems);
  RaiseProblems(problems, relation);
  PG_RETURN_INT32(Attach(relation, plan));
}

extern "C" Datum token_refresh_detach_table(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  RequireArgument(fcinfo, 0, "table_name");
  Oid relation = PG_GETARG_OID(0);
  RequireOwned(relation);
  // Others who detach it wait here.
  LockRelationOid(relation, ShareUpdateExclusiveLock);
  RequireOwned(relation);
  Detach(relation);
  PG_RETURN_VOID();
}
