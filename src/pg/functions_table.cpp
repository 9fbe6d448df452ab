// SQL functions attach_table and detach_table: the owner of a table hands its tokens to the
// refresher, and takes them back. Everything is checked first; nothing is changed when
// something is wrong.
#include "pg/attach_checks.h"
#include "pg/catalog.h"
#include "pg/owner_scope.h"
#include "pg/token_tables.h"
#include "pg/wakeup.h"

extern "C" {
#include "catalog/dependency.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_trigger.h"
#include "lib/stringinfo.h"
#include "storage/lmgr.h"

PG_FUNCTION_INFO_V1(token_refresh_attach_table);
PG_FUNCTION_INFO_V1(token_refresh_detach_table);
}

namespace token_refresh {

namespace {

constexpr const char* kInsertTable =
    "INSERT INTO token_refresh.token_table (relation, key_columns, columns, provider, label, filter, cipher, cipher_key,"
    " decrypt_function, encrypt_function, status_values, result_values, time_zone, has_trigger, poll_interval,"
    " refresh_margin) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) RETURNING id";
constexpr const char* kAudit =
    "INSERT INTO token_refresh.audit_event (event, token_table, message) VALUES ($1, $2, $3)";
constexpr const char* kCountParked = "SELECT count(*) FROM token_refresh.parked_result WHERE token_table = $1";
constexpr const char* kForgetTable =
    "WITH scheduled AS (DELETE FROM token_refresh.schedule WHERE token_table = $1)"
    " DELETE FROM token_refresh.token_table WHERE id = $1";
// The columns that say when a row falls due, as far as the table has them.
constexpr const char* kWatchedWords[] = {"provider", "subject", "label", "access_token", "refresh_token", "expires_at",
                                         "status"};
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
                 TEXTOID,     TEXTOID,      JSONBOID, JSONBOID, TEXTOID,  BOOLOID, INTERVALOID, INTERVALOID};
  char nulls[lengthof(types) + 1] = "                ";
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
                    PointerOrNull(plan.refresh_margin, &nulls[15])};
  if (SPI_execute_with_args(kInsertTable, lengthof(types), types, values, nulls, false, 0) != SPI_OK_INSERT_RETURNING)
    elog(ERROR, "token_refresh: writing token_table failed");
  bool is_null;
  return DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
}

void Run(const char* sql) {
  if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY) elog(ERROR, "token_refresh: a command failed");
}

// Adds a column to a list, once.
void AddColumn(StringInfo list, List** names, const char* name) {
  ListCell* cell;
  foreach (cell, *names)
    if (strcmp(static_cast<const char*>(lfirst(cell)), name) == 0) return;
  appendStringInfo(list, "%s%s", *names == NIL ? "" : ", ", quote_identifier(name));
  *names = lappend(*names, const_cast<char*>(name));
}

const char* WatchedColumns(const AttachPlan& plan) {
  StringInfoData columns;
  List* names = NIL;
  initStringInfo(&columns);
  for (const char* word : kWatchedWords) {
    const char* name = ColumnOf(plan, word);
    if (name != nullptr) AddColumn(&columns, &names, name);
  }
  Datum* keys;
  int count;
  deconstruct_array(plan.key_columns, TEXTOID, -1, false, TYPALIGN_INT, &keys, nullptr, &count);
  for (int i = 0; i < count; i++) AddColumn(&columns, &names, TextDatumGetCString(keys[i]));
  return columns.data;
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
void InstallTriggers(int32_t id, Oid relation, const AttachPlan& plan) {
  const char* table = QuotedName(relation);
  Run(psprintf("CREATE TRIGGER %s AFTER INSERT OR DELETE OR UPDATE OF %s ON %s FOR EACH ROW"
               " EXECUTE FUNCTION token_refresh._feed_schedule('%d')", kRowTrigger, WatchedColumns(plan), table, id));
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
  if (plan.trigger) InstallTriggers(id, relation, plan);
  Problems problems;
  InitProblems(&problems);
  TryTable(id, &problems);
  RaiseProblems(problems, relation);
  Audit("table_attached", id, QuotedName(relation));
  WakeAllAtCommit();
  LeaveOwnerScope(&scope);
  return id;
}

// Tokens that the table has not taken yet would be lost with it.
void RequireNothingParked(int32_t id, Oid relation) {
  Oid types[] = {INT4OID};
  Datum values[] = {Int32GetDatum(id)};
  if (SPI_execute_with_args(kCountParked, 1, types, values, nullptr, false, 0) != SPI_OK_SELECT)
    elog(ERROR, "token_refresh: reading parked_result failed");
  bool is_null;
  int64 parked = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
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
  RequireNothingParked(id, relation);
  for (const char* trigger : {kRowTrigger, kTruncateTrigger})
    Run(psprintf("DROP TRIGGER IF EXISTS %s ON %s", trigger, QuotedName(relation)));
  Oid types[] = {INT4OID};
  Datum values[] = {Int32GetDatum(id)};
  if (SPI_execute_with_args(kForgetTable, 1, types, values, nullptr, false, 0) != SPI_OK_DELETE)
    elog(ERROR, "token_refresh: writing token_table failed");
  Audit("table_detached", id, QuotedName(relation));
  LeaveOwnerScope(&scope);
}

}  // namespace

}  // namespace token_refresh

extern "C" Datum token_refresh_attach_table(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  for (int i = 0; i < 2; i++)
    if (PG_ARGISNULL(i))
      ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                      errmsg("argument \"%s\" must not be null", i == 0 ? "table_name" : "options")));
  Oid relation = PG_GETARG_OID(0);
  RequireAttachable(relation);
  // Nobody may alter the table between the checks and COMMIT.
  LockRelationOid(relation, AccessShareLock);
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
  if (PG_ARGISNULL(0))
    ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("argument \"table_name\" must not be null")));
  Oid relation = PG_GETARG_OID(0);
  RequireAttachable(relation);
  Detach(relation);
  PG_RETURN_VOID();
}
