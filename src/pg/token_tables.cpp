#include "pg/token_tables.h"

#include "pg/catalog.h"
#include "pg/provider_cache.h"

namespace token_refresh {

namespace {

constexpr const char* kColumnWords[kTokenColumns] = {
    "key",   "provider",  "subject",    "label",              "access_token", "refresh_token", "token_type",  "scope",
    "issued_at", "expires_at", "refresh_expires_at", "status",       "last_error",    "refreshed_at", "updated_at"};

HTAB* cache = nullptr;
uint64_t filled_at_version = 0;

void StartAfresh() {
  if (cache != nullptr && filled_at_version == ProviderCacheVersion()) return;
  HTAB* old = cache;
  cache = nullptr;
  if (old != nullptr) hash_destroy(old);
  HASHCTL control = {};
  control.keysize = sizeof(int32_t);
  control.entrysize = sizeof(TokenTable);
  control.hcxt = CacheMemoryContext;
  cache = hash_create("token_refresh token tables", 16, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  filled_at_version = ProviderCacheVersion();
}

void ReadColumns(Datum columns, TokenTable* table) {
  for (int i = 0; i < kTokenColumns; i++) {
    JsonbValue buffer;
    JsonbValue* name = getKeyJsonValueFromContainer(&DatumGetJsonbP(columns)->root, kColumnWords[i],
                                                    strlen(kColumnWords[i]), &buffer);
    table->columns[i][0] = '\0';
    if (name == nullptr || name->type != jbvString) continue;
    size_t length = Min(static_cast<size_t>(name->val.string.len), sizeof(table->columns[i]) - 1);
    memcpy(table->columns[i], name->val.string.val, length);
    table->columns[i][length] = '\0';
  }
}

void NameTable(TokenTable* table) {
  char* schema = get_namespace_name(get_rel_namespace(table->relation));
  char* name = get_rel_name(table->relation);
  if (schema == nullptr || name == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("token table %d does not exist any more", table->id)));
  snprintf(table->quoted_name, sizeof(table->quoted_name), "%s", quote_qualified_identifier(schema, name));
  snprintf(table->place, sizeof(table->place), "%s.%s", schema, name);
  AttrNumber key = get_attnum(table->relation, table->columns[kColumnKey]);
  if (key == InvalidAttrNumber)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN), errmsg("token table %s has lost its key column \"%s\"",
                                                              table->quoted_name, table->columns[kColumnKey])));
  table->key_type = get_atttype(table->relation, key);
}

bool Load(int32_t id, TokenTable* table) {
  Oid types[] = {INT4OID};
  Datum values[] = {Int32GetDatum(id)};
  int result = SPI_execute_with_args("SELECT relation, columns FROM token_refresh.token_table WHERE id = $1", 1, types,
                                     values, nullptr, true, 1);
  if (result != SPI_OK_SELECT) elog(ERROR, "token_refresh: reading token_table failed");
  if (SPI_processed == 0) return false;
  bool is_null;
  HeapTuple tuple = SPI_tuptable->vals[0];
  table->id = id;
  table->relation = DatumGetObjectId(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &is_null));
  ReadColumns(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &is_null), table);
  NameTable(table);
  return true;
}

}  // namespace

const TokenTable* GetTokenTable(int32_t id) {
  AcceptInvalidationMessages();
  StartAfresh();
  bool found;
  TokenTable* entry = static_cast<TokenTable*>(hash_search(cache, &id, HASH_FIND, &found));
  if (found) return entry;
  TokenTable loaded = {};
  if (!Load(id, &loaded))
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("token table %d is not attached", id)));
  StartAfresh();
  entry = static_cast<TokenTable*>(hash_search(cache, &id, HASH_ENTER, &found));
  *entry = loaded;
  return entry;
}

}  // namespace token_refresh
