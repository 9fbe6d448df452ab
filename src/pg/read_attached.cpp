#include "pg/read_attached.h"

#include "core/token_cipher.h"
#include "pg/boundary.h"
#include "pg/keys.h"
#include "pg/owner_scope.h"
#include "pg/statements.h"
#include "pg/table_key_sql.h"
#include "pg/table_scope.h"

extern "C" {
#include "lib/stringinfo.h"
}

namespace token_refresh {

namespace {

char* CopyText(HeapTuple tuple, int column) {
  bool is_null;
  Datum value = SPI_getbinval(tuple, SPI_tuptable->tupdesc, column, &is_null);
  return is_null ? nullptr : TextDatumGetCString(value);
}

bool GetTime(HeapTuple tuple, int column, TimestampTz* time) {
  bool is_null;
  Datum value = SPI_getbinval(tuple, SPI_tuptable->tupdesc, column, &is_null);
  *time = is_null ? 0 : DatumGetTimestampTz(value);
  return !is_null;
}

void ReadRow(const TokenTable& table, HeapTuple tuple, AttachedRow* found) {
  bool is_null;
  CredentialRow* row = &found->row;
  found->row_key = CopyText(tuple, 1);
  found->provider = CopyText(tuple, 2);
  found->subject = CopyText(tuple, 3);
  Datum stored = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 4, &is_null);
  row->access_token = is_null ? nullptr : DatumGetByteaPCopy(stored);
  row->status = pstrdup(kStatusWords[StatusOf(table, CopyText(tuple, 5))]);
  found->issued = GetTime(tuple, 6, &row->issued_at);
  row->expires = GetTime(tuple, 7, &row->expires_at);
  // A reader need not be allowed to see it; if there is none the refresher says so.
  row->has_refresh_token = true;
}

const char* KeyNames(const TokenTable& table) {
  StringInfoData names;
  initStringInfo(&names);
  for (int i = 0; i < table.key_count; i++) appendStringInfo(&names, "%s%s", i == 0 ? "" : ", ", table.keys[i].quoted);
  return names.data;
}

bool IsKeyPart(JsonbContainer* array, int n) {
  const JsonbValue* part = getIthJsonbValueFromContainer(array, n);
  return part->type == jbvString || part->type == jbvNumeric || part->type == jbvBool;
}

// A key of several columns is an array of as many texts: anything else would be a row that there is not.
void RequireKeyParts(const TokenTable& table, text* row_key) {
  if (table.key_count == 1) return;
  Jsonb* json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text_to_cstring(row_key))));
  bool complete = JB_ROOT_IS_ARRAY(json) && !JB_ROOT_IS_SCALAR(json) &&
                  JB_ROOT_COUNT(json) == static_cast<uint32>(table.key_count);
  for (int i = 0; complete && i < table.key_count; i++) complete = IsKeyPart(&json->root, i);
  if (!complete)
    ereport(ERROR, (errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
                    errmsg("the key of table %s has %d columns; give a JSON array of %d texts", table.quoted_name,
                           table.key_count, table.key_count),
                    errhint("The columns are %s.", KeyNames(table))));
}

// The owner's function opens the token in the owner's name. What it says may quote a token.
text* OpenByFunction(const TokenTable& table, const char* subject, bytea* stored) {
  MemoryContext context = CurrentMemoryContext;
  text* volatile opened = nullptr;
  TableError error = {};
  if (SPI_connect() != SPI_OK_CONNECT) elog(ERROR, "token_refresh: SPI_connect failed");
  const bool done = TryOnTable(table, &error, [&] {
    const Oid stored_type = table.columns[kColumnAccessToken].kind == ColumnKind::kBytea ? BYTEAOID : TEXTOID;
    Oid types[] = {stored_type, TEXTOID};
    Datum values[] = {PointerGetDatum(stored), subject != nullptr ? CStringGetTextDatum(subject) : 0};
    const char* nulls = subject != nullptr ? "  " : " n";
    // Prepared, as the scope then keeps what the function makes of it out of the plan.
    SPIPlanPtr plan = SPI_prepare(psprintf("SELECT %s($1, $2)::text", table.decrypt_function), lengthof(types), types);
    if (plan == nullptr || SPI_execute_plan(plan, values, nulls, true, 1) != SPI_OK_SELECT || SPI_processed != 1)
      elog(ERROR, "token_refresh: the decrypt function gave nothing");
    bool is_null;
    Datum value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null);
    MemoryContext previous = MemoryContextSwitchTo(context);
    if (!is_null) opened = DatumGetTextPCopy(value);
    MemoryContextSwitchTo(previous);
  });
  SPI_finish();
  if (!done)
    ereport(ERROR, (errcode(error.sqlstate == ERRCODE_QUERY_CANCELED ? ERRCODE_QUERY_CANCELED
                                                                     : ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
                    errmsg("the decrypt function of table %s fails with SQLSTATE %s", table.quoted_name,
                           unpack_sql_state(error.sqlstate))));
  return opened;
}

}  // namespace

TokenTable* RequireAttached(Oid relation) {
  OwnerScope scope;
  EnterOwnerScope(&scope);
  const int32_t id = TokenTableOf(relation);
  if (id == 0 || id == kBuiltInTokenTable)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("table \"%s\" is not attached", get_rel_name(relation)),
                    errhint("Its owner can attach it with token_refresh.attach_table().")));
  TokenTable* table = StatementsFor(id)->table;
  LeaveOwnerScope(&scope);
  return table;
}

bool FetchAttached(TokenTable* table, text* row_key, Snapshot snapshot, AttachedRow* found) {
  MemoryContext context = CurrentMemoryContext;
  *found = {};
  RequireKeyParts(*table, row_key);
  LockTokenTable(*table);
  const int nest_level = NewGUCNestLevel();
  FixKeyText();
  if (SPI_connect() != SPI_OK_CONNECT) elog(ERROR, "token_refresh: SPI_connect failed");
  Datum values[] = {PointerGetDatum(row_key)};
  PushActiveSnapshot(snapshot);
  bool there = Execute(&table->statements->read, values, true) > 0;
  PopActiveSnapshot();
  if (there) {
    MemoryContext previous = MemoryContextSwitchTo(context);
    ReadRow(*table, SPI_tuptable->vals[0], found);
    MemoryContextSwitchTo(previous);
    there = found->row_key != nullptr;
  }
  SPI_finish();
  AtEOXact_GUC(false, nest_level);
  // '01/02/2026' may have meant another row than the one that it has found.
  if (there && table->key_text_varies && strcmp(found->row_key, text_to_cstring(row_key)) != 0)
    CanonicalKey(*table, row_key);
  return there;
}

char* CanonicalKey(const TokenTable& table, text* row_key) {
  MemoryContext context = CurrentMemoryContext;
  RequireKeyParts(table, row_key);
  const int nest_level = NewGUCNestLevel();
  FixKeyText();
  if (SPI_connect() != SPI_OK_CONNECT) elog(ERROR, "token_refresh: SPI_connect failed");
  Oid types[] = {TEXTOID};
  Datum values[] = {PointerGetDatum(row_key)};
  if (SPI_execute_with_args(CanonicalKeySql(table), 1, types, values, nullptr, true, 1) != SPI_OK_SELECT)
    elog(ERROR, "token_refresh: reading a row key failed");
  HeapTuple tuple = SPI_tuptable->vals[0];
  bool is_null;
  const bool clear = DatumGetBool(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &is_null));
  MemoryContext previous = MemoryContextSwitchTo(context);
  char* key = CopyText(tuple, 1);
  MemoryContextSwitchTo(previous);
  SPI_finish();
  AtEOXact_GUC(false, nest_level);
  if (!clear)
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("argument \"row_key\" can be read in more than one way"),
                    errhint("Write it as token_status has it, under DateStyle ISO and TimeZone UTC: %s", key)));
  return key;
}

text* OpenAttached(const TokenTable& table, const char* row_key, const char* subject, bytea* stored) {
  if (table.cipher == TableCipher::kFunctions) return OpenByFunction(table, subject, stored);
  std::string_view bytes(VARDATA_ANY(stored), VARSIZE_ANY_EXHDR(stored));
  // Allocated before C++ is entered: no plaintext is longer than what is stored.
  text* opened = static_cast<text*>(palloc(VARHDRSZ + bytes.size()));
  size_t size = 0;
  PlainError error;
  const bool done = CallCpp(error, [&]() -> Status {
    Result<const KeyRing*> ring = LoadKeyRing();
    if (!ring.ok()) return ring.error();
    TokenCipher cipher{table.cipher, table.place, table.cipher_key != nullptr ? table.cipher_key : ""};
    Result<Secret> token = OpenStoredToken(**ring, cipher, row_key, "access_token", bytes);
    if (!token.ok()) return token.error();
    size = token->size();
    memcpy(VARDATA(opened), token->view().data(), size);
    return Ok();
  });
  if (!done)
    ereport(ERROR, (errcode(error.sqlstate), errmsg("the access token in column %s of table %s does not open in the row %s",
                                                    table.columns[kColumnAccessToken].quoted, table.quoted_name, row_key),
                    errdetail("%s", error.message), error.hint[0] != '\0' ? errhint("%s", error.hint) : 0));
  SET_VARSIZE(opened, VARHDRSZ + size);
  return opened;
}

}  // namespace token_refresh
