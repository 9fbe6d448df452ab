#include "pg/read_attached.h"

#include "core/token_cipher.h"
#include "pg/boundary.h"
#include "pg/keys.h"
#include "pg/owner_scope.h"
#include "pg/statements.h"
#include "pg/table_scope.h"

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
  row->has_refresh_token = DatumGetBool(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 5, &is_null));
  row->scope = CopyText(tuple, 6);
  row->status = pstrdup(kStatusWords[StatusOf(table, CopyText(tuple, 7))]);
  found->issued = GetTime(tuple, 8, &row->issued_at);
  row->expires = GetTime(tuple, 9, &row->expires_at);
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
    Datum values[] = {PointerGetDatum(stored), CStringGetTextDatum(subject)};
    const char* sql = psprintf("SELECT %s($1, $2)::text", table.decrypt_function);
    if (SPI_execute_with_args(sql, 2, types, values, nullptr, true, 1) != SPI_OK_SELECT || SPI_processed != 1)
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
  const int nest_level = NewGUCNestLevel();
  FixKeyText();
  if (SPI_connect() != SPI_OK_CONNECT) elog(ERROR, "token_refresh: SPI_connect failed");
  Datum values[] = {PointerGetDatum(row_key)};
  PushActiveSnapshot(snapshot);
  const bool there = Execute(&table->statements->read, values, true) > 0;
  PopActiveSnapshot();
  if (there) {
    MemoryContext previous = MemoryContextSwitchTo(context);
    ReadRow(*table, SPI_tuptable->vals[0], found);
    MemoryContextSwitchTo(previous);
  }
  SPI_finish();
  AtEOXact_GUC(false, nest_level);
  return there;
}

text* OpenAttached(const TokenTable& table, const char* row_key, const char* subject, bytea* stored) {
  if (table.cipher == TableCipher::kFunctions) return OpenByFunction(table, subject, stored);
  std::string_view bytes(VARDATA_ANY(stored), VARSIZE_ANY_EXHDR(stored));
  // Allocated before C++ is entered: no plaintext is longer than what is stored.
  text* opened = static_cast<text*>(palloc(VARHDRSZ + bytes.size()));
  size_t size = 0;
  RunCpp([&]() -> Status {
    Result<const KeyRing*> ring = LoadKeyRing();
    if (!ring.ok()) return ring.error();
    TokenCipher cipher{table.cipher, table.place, table.cipher_key != nullptr ? table.cipher_key : ""};
    Result<Secret> token = OpenStoredToken(**ring, cipher, row_key, "access_token", bytes);
    if (!token.ok()) return token.error();
    size = token->size();
    memcpy(VARDATA(opened), token->view().data(), size);
    return Ok();
  });
  SET_VARSIZE(opened, VARHDRSZ + size);
  return opened;
}

}  // namespace token_refresh
