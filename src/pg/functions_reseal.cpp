// What rotate_keys and key_usage need of attached tables: which keys their tokens are under, and a
// new envelope for those that the first key of the ring has not sealed. For administrators. The
// tables are read and written as their owners, so that nothing of theirs runs with other rights.
#include <string>

#include "core/encoding.h"
#include "core/key_ring.h"
#include "core/sealed_box.h"
#include "pg/boundary.h"
#include "pg/catalog.h"
#include "pg/feed.h"
#include "pg/keys.h"
#include "pg/owner_scope.h"
#include "pg/spi_arrays.h"
#include "pg/table_scope.h"
#include "pg/table_sql.h"

extern "C" {
PG_FUNCTION_INFO_V1(token_refresh_attached_keys);
PG_FUNCTION_INFO_V1(token_refresh_reseal_attached);
Datum token_refresh_reseal(PG_FUNCTION_ARGS);
}

namespace token_refresh {

namespace {

constexpr TokenColumn kTokens[] = {kColumnAccessToken, kColumnRefreshToken};
constexpr const char* kWords[] = {"access_token", "refresh_token"};
constexpr int kTokensOfRow = lengthof(kTokens);

constexpr const char* kListTables =
    "SELECT id FROM token_refresh.token_table WHERE id <> 1 AND cipher IN ('native', 'aes-256-gcm-hex') ORDER BY id";

// ---- which keys

struct KeyUse {
  bytea* key_id;  // as it stands in the envelopes; null: there is no envelope
  int64 secrets;
};

// One row per key of the table's tokens.
const char* CountSql(const TokenTable& table) {
  const bool native = table.cipher == TableCipher::kNative;
  // What is no envelope may be a token in plain text.
  const char* envelope = psprintf("CASE WHEN pg_catalog.octet_length(_t.token) >= %zu AND pg_catalog.get_byte(_t.token, 0) = %d"
                                  " THEN pg_catalog.substr(_t.token, 2, 8) END", kEnvelopeOverhead, kEnvelopeVersion);
  const char* id = native ? envelope : "NULL::bytea";
  const char* type = native ? "bytea" : "text";
  return psprintf("SELECT %s, pg_catalog.count(*) FROM (SELECT %s.%s::%s AS token FROM %s AS %s"
                  " UNION ALL SELECT %s.%s::%s FROM %s AS %s) AS _t WHERE _t.token <> '' GROUP BY 1",
                  id, table.alias, table.columns[kColumnAccessToken].quoted, type, table.quoted_name, table.alias,
                  table.alias, table.columns[kColumnRefreshToken].quoted, type, table.quoted_name, table.alias);
}

int CountKeys(const TokenTable& table, MemoryContext context, KeyUse** uses) {
  if (SPI_execute(CountSql(table), true, 0) != SPI_OK_SELECT) elog(ERROR, "token_refresh: counting keys failed");
  const int count = static_cast<int>(SPI_processed);
  MemoryContext previous = MemoryContextSwitchTo(context);
  *uses = static_cast<KeyUse*>(palloc0(sizeof(KeyUse) * (count + 1)));
  for (int i = 0; i < count; i++) {
    bool is_null;
    Datum id = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null);
    (*uses)[i].key_id = is_null ? nullptr : DatumGetByteaPCopy(id);
    (*uses)[i].secrets = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &is_null));
  }
  MemoryContextSwitchTo(previous);
  return count;
}

// The name of a key as key_usage shows it. An application's own key is not replaced by rotate_keys, so it is current.
Status NameKey(const TokenTable& table, const KeyUse& use, char** name, bool* current) {
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return ring.error();
  if (use.key_id == nullptr && table.cipher == TableCipher::kNative) {
    *current = false;
    *name = CopyOut("not sealed");
    return Ok();
  }
  if (use.key_id == nullptr) {
    *current = (*ring)->FindApplicationKey(table.cipher_key) != nullptr;
    *name = CopyOut((*current ? "" : "missing key ") + std::string(table.cipher_key));
    return Ok();
  }
  const std::string_view bytes(VARDATA_ANY(use.key_id), VARSIZE_ANY_EXHDR(use.key_id));
  KeyId id{};
  const SealingKey* key = nullptr;
  if (bytes.size() == id.size()) {
    memcpy(id.data(), bytes.data(), id.size());
    key = (*ring)->FindById(id);
  }
  *current = key == &(*ring)->primary();
  *name = CopyOut(key != nullptr ? key->name : "missing key " + HexEncode(bytes));
  return Ok();
}

void PutKeyRow(ReturnSetInfo* result, const TokenTable& table, const char* key, bool current, int64 secrets) {
  Datum values[] = {CStringGetTextDatum(table.quoted_name), CStringGetTextDatum(key), BoolGetDatum(current),
                    Int64GetDatum(secrets)};
  bool nulls[] = {false, false, false, false};
  tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

void PutKeysOf(int32_t id, ReturnSetInfo* result) {
  const TokenTable* table = GetTokenTable(id);
  MemoryContext context = CurrentMemoryContext;
  KeyUse* uses = nullptr;
  volatile int count = 0;
  TableError error = {};
  // Nobody may take a key for unused because a table did not tell.
  const bool read = table->trouble == nullptr &&
                    TryOnTable(*table, &error, [&] { count = CountKeys(*table, context, &uses); });
  RaiseIfCanceled(error);
  if (!read) return PutKeyRow(result, *table, "unknown, as the table cannot be read", false, 0);
  for (int i = 0; i < count; i++) {
    char* name = nullptr;
    bool current = false;
    RunCpp([&] { return NameKey(*table, uses[i], &name, &current); });
    PutKeyRow(result, *table, name, current, uses[i].secrets);
  }
}

// ---- a new envelope

struct SealedRow {
  char* key;
  bytea *stored[kTokensOfRow], *resealed[kTokensOfRow];  // may be null
  bool changed;
};

int ReadBatch(const TokenTable& table, const char* cursor, int limit, MemoryContext context, SealedRow** rows) {
  Oid types[] = {TEXTOID};
  Datum values[] = {cursor != nullptr ? CStringGetTextDatum(cursor) : 0};
  const char* sql = SealedSql(table, cursor != nullptr, limit);
  if (SPI_execute_with_args(sql, cursor != nullptr ? 1 : 0, types, values, nullptr, true, 0) != SPI_OK_SELECT)
    elog(ERROR, "token_refresh: reading sealed tokens failed");
  const int count = static_cast<int>(SPI_processed);
  MemoryContext previous = MemoryContextSwitchTo(context);
  *rows = static_cast<SealedRow*>(palloc0(sizeof(SealedRow) * (count + 1)));
  for (int i = 0; i < count; i++) {
    HeapTuple tuple = SPI_tuptable->vals[i];
    (*rows)[i].key = SPI_getvalue(tuple, SPI_tuptable->tupdesc, 1);
    for (int t = 0; t < kTokensOfRow; t++) {
      bool is_null;
      Datum token = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2 + t, &is_null);
      (*rows)[i].stored[t] = is_null ? nullptr : DatumGetByteaPCopy(token);
    }
  }
  MemoryContextSwitchTo(previous);
  return count;
}

// What the first key has sealed already, and what does not open, stays as it is.
void Reseal(const TokenTable& table, SealedRow* row) {
  if (row->key == nullptr) return;
  for (int t = 0; t < kTokensOfRow; t++) {
    bytea* stored = row->stored[t];
    row->resealed[t] = stored;
    if (stored == nullptr || VARSIZE_ANY_EXHDR(stored) == 0) continue;
    row->resealed[t] = DatumGetByteaPP(
        DirectFunctionCall4(token_refresh_reseal, CStringGetTextDatum(table.place), CStringGetTextDatum(row->key),
                            CStringGetTextDatum(kWords[t]), PointerGetDatum(stored)));
    row->changed = row->changed || row->resealed[t] != stored;
  }
}

Datum TokenArray(const SealedRow* const* rows, int count, int t, bool resealed) {
  return MakeArray(count, BYTEAOID, [&](int i, bool* is_null) {
    const bytea* token = resealed ? rows[i]->resealed[t] : rows[i]->stored[t];
    *is_null = token == nullptr;
    return PointerGetDatum(token);
  });
}

// The same tokens in a new envelope are no news for the schedule.
uint64 WriteRows(const TokenTable& table, const SealedRow* const* rows, int count) {
  Oid types[] = {TEXTARRAYOID, BYTEAARRAYOID, BYTEAARRAYOID, BYTEAARRAYOID, BYTEAARRAYOID};
  Datum values[] = {MakeArray(count, TEXTOID, [&](int i, bool*) { return CStringGetTextDatum(rows[i]->key); }),
                    TokenArray(rows, count, 0, false), TokenArray(rows, count, 1, false),
                    TokenArray(rows, count, 0, true), TokenArray(rows, count, 1, true)};
  TableScope scope;
  EnterTableScope(table, true, &scope);
  SetOwnWrites(table.id);
  if (SPI_execute_with_args(ResealSql(table), lengthof(types), types, values, nullptr, false, 0) != SPI_OK_UPDATE)
    elog(ERROR, "token_refresh: resealing tokens failed");
  const uint64 written = SPI_processed;
  SetOwnWrites(0);
  LeaveTableScope(scope);
  return written;
}

constexpr const char* kMoveRefused =
    "UPDATE token_refresh.schedule s SET refused_token = pg_catalog.sha256(k.fresh) FROM unnest($2, $3, $4)"
    " AS k(key, old, fresh) WHERE s.token_table = $1 AND s.row_key = k.key AND s.refused_token = pg_catalog.sha256(k.old)";

// The refresh token of a dead grant is still the one that was refused.
void MoveRefused(const TokenTable& table, const SealedRow* const* rows, int count) {
  Oid types[] = {INT4OID, TEXTARRAYOID, BYTEAARRAYOID, BYTEAARRAYOID};
  Datum values[] = {Int32GetDatum(table.id),
                    MakeArray(count, TEXTOID, [&](int i, bool*) { return CStringGetTextDatum(rows[i]->key); }),
                    TokenArray(rows, count, 1, false), TokenArray(rows, count, 1, true)};
  if (SPI_execute_with_args(kMoveRefused, lengthof(types), types, values, nullptr, false, 0) != SPI_OK_UPDATE)
    elog(ERROR, "token_refresh: writing the schedule failed");
}

// Returns the SQLSTATE of what went wrong; 0: nothing.
int TryWrite(const TokenTable& table, const SealedRow* const* rows, int count, int64* resealed) {
  TableError error = {};
  volatile uint64 written = 0;
  const bool done = TryOnTable(table, &error, [&] { written = WriteRows(table, rows, count); });
  SetOwnWrites(0);
  RaiseIfCanceled(error);
  if (done) MoveRefused(table, rows, count);
  if (done) *resealed += written;
  return done ? 0 : error.sqlstate;
}

int64 WriteBatch(const TokenTable& table, SealedRow* rows, int count) {
  const SealedRow** changed = static_cast<const SealedRow**>(palloc(sizeof(SealedRow*) * (count + 1)));
  int changes = 0, rejected = 0, why = 0;
  int64 resealed = 0;
  for (int i = 0; i < count; i++)
    if (rows[i].changed) changed[changes++] = &rows[i];
  if (changes == 0 || TryWrite(table, changed, changes, &resealed) == 0) return resealed;
  for (int i = 0; i < changes; i++) {
    const int sqlstate = TryWrite(table, &changed[i], 1, &resealed);
    if (sqlstate == 0) continue;
    rejected++;
    why = sqlstate;
  }
  // What the owner's code says may quote a row.
  if (rejected > 0)
    ereport(WARNING, (errmsg("table %s rejects the resealed tokens of %d row(s) with SQLSTATE %s", table.quoted_name,
                             rejected, unpack_sql_state(why)),
                      errdetail("They stay under the former key.")));
  return resealed;
}

}  // namespace

}  // namespace token_refresh

extern "C" Datum token_refresh_attached_keys(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  InitMaterializedSRF(fcinfo, 0);
  ReturnSetInfo* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
  OwnerScope scope;
  EnterOwnerScope(&scope);
  if (SPI_execute(kListTables, true, 0) != SPI_OK_SELECT) elog(ERROR, "token_refresh: reading token_table failed");
  const int count = static_cast<int>(SPI_processed);
  int32_t* ids = static_cast<int32_t*>(palloc(sizeof(int32_t) * (count + 1)));
  bool is_null;
  for (int i = 0; i < count; i++)
    ids[i] = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null));
  for (int i = 0; i < count; i++) PutKeysOf(ids[i], result);
  LeaveOwnerScope(&scope);
  return 0;
}

extern "C" Datum token_refresh_reseal_attached(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  TupleDesc desc;
  if (get_call_result_type(fcinfo, nullptr, &desc) != TYPEFUNC_COMPOSITE)
    elog(ERROR, "token_refresh: return type must be a row type");
  MemoryContext caller_context = CurrentMemoryContext;
  const char* cursor = PG_ARGISNULL(1) ? nullptr : text_to_cstring(PG_GETARG_TEXT_PP(1));
  OwnerScope scope;
  EnterOwnerScope(&scope);
  const TokenTable* table = FindTokenTable(PG_GETARG_INT32(0));
  MemoryContext context = CurrentMemoryContext;
  SealedRow* rows = nullptr;
  volatile int count = 0;
  int64 resealed = 0;
  TableError error = {};
  const bool readable =
      table != nullptr && table->trouble == nullptr && table->cipher == TableCipher::kNative &&
      TryOnTable(*table, &error, [&] { count = ReadBatch(*table, cursor, PG_GETARG_INT32(2), context, &rows); });
  RaiseIfCanceled(error);
  for (int i = 0; readable && i < count; i++) Reseal(*table, &rows[i]);
  if (readable) resealed = WriteBatch(*table, rows, count);
  const char* last = count > 0 ? MemoryContextStrdup(caller_context, rows[count - 1].key) : nullptr;
  LeaveOwnerScope(&scope);
  Datum values[] = {last != nullptr ? CStringGetTextDatum(last) : 0, Int64GetDatum(resealed)};
  bool nulls[] = {last == nullptr, false};
  PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
