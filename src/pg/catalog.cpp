#include "pg/catalog.h"

#include "pg/index_lookup.h"

extern "C" {
#include "catalog/pg_collation.h"
#include "utils/fmgroids.h"
}

namespace token_refresh {

namespace {

// Column numbers, as the install script creates them.
enum CredentialColumn {
  kCredentialId = 1,
  kCredentialAccessToken = 5,
  kCredentialRefreshToken = 6,
  kCredentialTokenType = 7,
  kCredentialScope = 8,
  kCredentialIssuedAt = 9,
  kCredentialExpiresAt = 10,
  kCredentialStatus = 12,
};
enum ScheduleColumn {
  kScheduleId = 1,
  kScheduleProvider = 4,
  kScheduleStatus = 5,
  kScheduleDueAt = 6,
  kScheduleAttempts = 8,
  kScheduleFailure = 10,
  kScheduleMessage = 11,
  kScheduleGeneration = 12,
};
enum ParkedColumn {
  kParkedAccessToken = 5,
  kParkedTokenType = 7,
  kParkedScope = 8,
  kParkedIssuedAt = 9,
  kParkedExpiresAt = 10,
};

constexpr const char* kSelectCredential =
    "SELECT id, access_token, refresh_token IS NOT NULL, token_type, scope, issued_at, expires_at, status"
    " FROM token_refresh.credential"
    " WHERE provider OPERATOR(pg_catalog.=) $1 AND subject OPERATOR(pg_catalog.=) $2"
    " AND label OPERATOR(pg_catalog.=) $3";

// Oids already looked up. Four look-ups by name in the system caches would be a good part of a whole read.
struct KnownRelation {
  char name[NAMEDATALEN];
  Oid oid;
};
constexpr int kMaxKnownRelations = 32;
KnownRelation known_relations[kMaxKnownRelations];
int known_count = 0;
uint64 times_forgotten = 0;

void ForgetRelations(Datum, int, uint32) {
  known_count = 0;
  times_forgotten++;
}

void WatchRelations() {
  static bool watching = false;
  if (watching) return;
  CacheRegisterSyscacheCallback(RELOID, ForgetRelations, 0);
  CacheRegisterSyscacheCallback(NAMESPACEOID, ForgetRelations, 0);
  watching = true;
}

Oid LookUpRelation(const char* name) {
  Oid schema = get_namespace_oid(kSchema, true);
  Oid relation = OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;
  if (!OidIsValid(relation))
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("token_refresh.%s does not exist in this database", name),
                    errhint("Run CREATE EXTENSION token_refresh.")));
  return relation;
}

void ReadCredential(TupleTableSlot* slot, CredentialRow* row) {
  bool is_null;
  row->id = DatumGetInt64(GetColumn(slot, kCredentialId, &is_null));
  row->access_token = CopyBytes(slot, kCredentialAccessToken);
  GetColumn(slot, kCredentialRefreshToken, &is_null);
  row->has_refresh_token = !is_null;
  row->token_type = CopyText(slot, kCredentialTokenType);
  row->scope = CopyText(slot, kCredentialScope);
  row->status = CopyText(slot, kCredentialStatus);
  GetTime(slot, kCredentialIssuedAt, &row->issued_at);
  row->expires = GetTime(slot, kCredentialExpiresAt, &row->expires_at);
}

void ReadSchedule(TupleTableSlot* slot, ScheduleRow* row) {
  bool is_null;
  row->id = DatumGetInt64(GetColumn(slot, kScheduleId, &is_null));
  row->provider = DatumGetInt32(GetColumn(slot, kScheduleProvider, &is_null));
  row->status = CopyText(slot, kScheduleStatus);
  row->due = GetTime(slot, kScheduleDueAt, &row->due_at);
  row->attempts = DatumGetInt32(GetColumn(slot, kScheduleAttempts, &is_null));
  row->failure = CopyText(slot, kScheduleFailure);
  row->message = CopyText(slot, kScheduleMessage);
  row->generation = DatumGetInt64(GetColumn(slot, kScheduleGeneration, &is_null));
  row->written_by_this_transaction = WrittenByThisTransaction(slot);
}

bool FetchCredentialByIndex(Oid table, text* provider, text* subject, text* label, Snapshot snapshot,
                            CredentialRow* row) {
  ScanKeyData keys[3];
  EqualKey(&keys[0], 1, C_COLLATION_OID, F_TEXTEQ, PointerGetDatum(provider));
  EqualKey(&keys[1], 2, C_COLLATION_OID, F_TEXTEQ, PointerGetDatum(subject));
  EqualKey(&keys[2], 3, C_COLLATION_OID, F_TEXTEQ, PointerGetDatum(label));
  return FetchOne(table, ExtensionRelation("credential_identity"), keys, 3, snapshot,
                  [row](TupleTableSlot* slot) { ReadCredential(slot, row); });
}

// SPI's answer lives in a context that ends with SPI_finish; results are copied to caller_context.
void ReadCredentialFromSpi(MemoryContext caller_context, CredentialRow* row) {
  HeapTuple tuple = SPI_tuptable->vals[0];
  TupleDesc desc = SPI_tuptable->tupdesc;
  MemoryContext previous = MemoryContextSwitchTo(caller_context);
  bool is_null;
  row->id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &is_null));
  row->access_token = DatumGetByteaPCopy(SPI_getbinval(tuple, desc, 2, &is_null));
  row->has_refresh_token = DatumGetBool(SPI_getbinval(tuple, desc, 3, &is_null));
  row->token_type = TextDatumGetCString(SPI_getbinval(tuple, desc, 4, &is_null));
  Datum scope = SPI_getbinval(tuple, desc, 5, &is_null);
  row->scope = is_null ? nullptr : TextDatumGetCString(scope);
  row->issued_at = DatumGetTimestampTz(SPI_getbinval(tuple, desc, 6, &is_null));
  Datum expires_at = SPI_getbinval(tuple, desc, 7, &is_null);
  row->expires = !is_null;
  row->expires_at = is_null ? 0 : DatumGetTimestampTz(expires_at);
  row->status = TextDatumGetCString(SPI_getbinval(tuple, desc, 8, &is_null));
  MemoryContextSwitchTo(previous);
}

// Through the executor, which applies the policies and privileges of the caller.
bool FetchCredentialByQuery(text* provider, text* subject, text* label, Snapshot snapshot, CredentialRow* row) {
  static SPIPlanPtr plan = nullptr;
  MemoryContext caller_context = CurrentMemoryContext;
  if (SPI_connect() != SPI_OK_CONNECT) elog(ERROR, "token_refresh: SPI_connect failed");
  if (plan == nullptr) {
    Oid types[3] = {TEXTOID, TEXTOID, TEXTOID};
    SPIPlanPtr prepared = SPI_prepare(kSelectCredential, 3, types);
    if (prepared == nullptr) elog(ERROR, "token_refresh: SPI_prepare failed");
    SPI_keepplan(prepared);
    plan = prepared;
  }
  Datum values[3] = {PointerGetDatum(provider), PointerGetDatum(subject), PointerGetDatum(label)};
  PushActiveSnapshot(snapshot);
  int result = SPI_execute_plan(plan, values, nullptr, true, 1);
  PopActiveSnapshot();
  if (result != SPI_OK_SELECT) elog(ERROR, "token_refresh: reading credential failed");
  bool found = SPI_processed > 0;
  if (found) ReadCredentialFromSpi(caller_context, row);
  SPI_finish();
  return found;
}

}  // namespace

Oid ExtensionRelation(const char* name) {
  for (int i = 0; i < known_count; i++)
    if (strcmp(known_relations[i].name, name) == 0) return known_relations[i].oid;
  WatchRelations();
  const uint64 forgotten_before = times_forgotten;
  const Oid relation = LookUpRelation(name);
  // Known only if nothing has changed while it was looked up.
  if (times_forgotten == forgotten_before && known_count < kMaxKnownRelations) {
    KnownRelation* known = &known_relations[known_count++];
    strlcpy(known->name, name, NAMEDATALEN);
    known->oid = relation;
  }
  return relation;
}

bool FetchCredential(text* provider, text* subject, text* label, Snapshot snapshot, CredentialRow* row) {
  Oid table = ExtensionRelation("credential");
  bool direct = pg_class_aclcheck(table, GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
                check_enable_rls(table, InvalidOid, true) != RLS_ENABLED;
  return direct ? FetchCredentialByIndex(table, provider, subject, label, snapshot, row)
                : FetchCredentialByQuery(provider, subject, label, snapshot, row);
}

bool FetchSchedule(int32_t token_table, const char* row_key, Snapshot snapshot, ScheduleRow* row) {
  ScanKeyData keys[2];
  EqualKey(&keys[0], 1, InvalidOid, F_INT4EQ, Int32GetDatum(token_table));
  EqualKey(&keys[1], 2, C_COLLATION_OID, F_TEXTEQ, CStringGetTextDatum(row_key));
  return FetchOne(ExtensionRelation("schedule"), ExtensionRelation("schedule_row"), keys, 2, snapshot,
                  [row](TupleTableSlot* slot) { ReadSchedule(slot, row); });
}

bool FetchScheduleById(int64_t id, Snapshot snapshot, ScheduleRow* row) {
  ScanKeyData key;
  EqualKey(&key, 1, InvalidOid, F_INT8EQ, Int64GetDatum(id));
  return FetchOne(ExtensionRelation("schedule"), ExtensionRelation("schedule_pkey"), &key, 1, snapshot,
                  [row](TupleTableSlot* slot) { ReadSchedule(slot, row); });
}

bool FetchParked(int64_t schedule_id, Snapshot snapshot, ParkedRow* row) {
  ScanKeyData key;
  EqualKey(&key, 1, InvalidOid, F_INT8EQ, Int64GetDatum(schedule_id));
  return FetchOne(ExtensionRelation("parked_result"), ExtensionRelation("parked_result_pkey"), &key, 1, snapshot,
                  [row](TupleTableSlot* slot) {
                    row->access_token = CopyBytes(slot, kParkedAccessToken);
                    row->token_type = CopyText(slot, kParkedTokenType);
                    row->scope = CopyText(slot, kParkedScope);
                    GetTime(slot, kParkedIssuedAt, &row->issued_at);
                    row->expires = GetTime(slot, kParkedExpiresAt, &row->expires_at);
                  });
}

}  // namespace token_refresh
