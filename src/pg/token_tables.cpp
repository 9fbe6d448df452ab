#include "pg/token_tables.h"

#include "pg/catalog.h"
#include "pg/provider_cache.h"
#include "pg/statements.h"
#include "pg/workers.h"

extern "C" {
#include "access/attnum.h"
#include "catalog/pg_operator.h"
#include "storage/lmgr.h"
#include "utils/typcache.h"
}

namespace token_refresh {

const char* const kStatusWords[kTokenStatuses] = {"connected", "token_expired", "needs_reauth", "error",
                                                  "disconnected"};

namespace {

constexpr const char* kColumnWords[kTokenColumns] = {
    "provider",   "subject",            "label",  "access_token", "refresh_token", "token_type",  "scope",     "issued_at",
    "expires_at", "refresh_expires_at", "status", "last_error",   "result",        "refreshed_at", "updated_at"};

constexpr const char* kReadTable =
    "SELECT relation, key_columns, columns, provider, label, filter, cipher, cipher_key, decrypt_function,"
    " encrypt_function, status_values, result_values, time_zone, has_trigger, poll_interval, refresh_margin,"
    " attached_at FROM token_refresh.token_table WHERE id = $1";

TokenTable* tables = nullptr;
uint64_t relation_changes = 0;

uint64_t CurrentVersion() { return ProviderCacheVersion() + relation_changes; }

// Runs whenever a table is altered; allocates nothing.
void RelationChanged(Datum, Oid relation) {
  for (const TokenTable* table = tables; table != nullptr; table = table->next) {
    if (relation != InvalidOid && relation != table->relation) continue;
    relation_changes++;
    return;
  }
}

// What is wrong is kept, not raised: an application's own INSERT must not fail for it.
void Trouble(TokenTable* table, const char* trouble) {
  if (table->trouble == nullptr) table->trouble = trouble;
}

// One row of token_table.
struct Record {
  HeapTuple tuple;
  TupleDesc desc;
};

Datum Field(const Record& record, int column, bool* is_null) {
  return SPI_getbinval(record.tuple, record.desc, column, is_null);
}

const char* TextField(const Record& record, int column) {
  bool is_null;
  Datum value = Field(record, column, &is_null);
  return is_null ? nullptr : TextDatumGetCString(value);
}

Micros IntervalField(const Record& record, int column) {
  bool is_null;
  Datum value = Field(record, column, &is_null);
  return is_null ? 0 : FromInterval(DatumGetIntervalP(value));
}

// The text under key, if there is one.
const char* JsonText(const Record& record, int column, const char* key) {
  bool is_null;
  Datum object = Field(record, column, &is_null);
  if (is_null) return nullptr;
  JsonbValue buffer;
  JsonbValue* value = getKeyJsonValueFromContainer(&DatumGetJsonbP(object)->root, key, strlen(key), &buffer);
  if (value == nullptr || value->type != jbvString) return nullptr;
  return pnstrdup(value->val.string.val, value->val.string.len);
}

ColumnKind KindOf(Oid type) {
  switch (getBaseType(type)) {
    case BYTEAOID:
      return ColumnKind::kBytea;
    case TIMESTAMPTZOID:
      return ColumnKind::kTimestampTz;
    case TIMESTAMPOID:
      return ColumnKind::kTimestamp;
    default:
      return ColumnKind::kText;
  }
}

bool IsTime(TokenColumn column) {
  return column == kColumnIssuedAt || column == kColumnExpiresAt || column == kColumnRefreshExpiresAt ||
         column == kColumnRefreshedAt || column == kColumnUpdatedAt;
}

struct Attribute {
  Oid type;
  const char *name, *sized_name;  // of the type, qualified
};

bool FindAttribute(TokenTable* table, const char* name, Attribute* attribute) {
  AttrNumber number = get_attnum(table->relation, name);
  if (number <= 0) {
    Trouble(table, psprintf("column %s of table %s does not exist", quote_identifier(name), table->quoted_name));
    return false;
  }
  int32 modifier;
  Oid collation;
  get_atttypetypmodcoll(table->relation, number, &attribute->type, &modifier, &collation);
  constexpr bits16 kHow = FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY;
  attribute->name = format_type_extended(attribute->type, -1, kHow);
  attribute->sized_name = format_type_extended(attribute->type, modifier, kHow);
  return true;
}

void ReadColumn(const Record& record, TokenColumn word, TokenTable* table) {
  MappedColumn* column = &table->columns[word];
  column->name = JsonText(record, 3, kColumnWords[word]);
  if (column->name == nullptr) return;
  column->quoted = quote_identifier(column->name);
  column->reference = psprintf("%s.%s", table->alias, column->quoted);
  Attribute attribute;
  if (!FindAttribute(table, column->name, &attribute)) return;
  column->type_oid = attribute.type;
  column->type = attribute.name;
  column->sized_type = attribute.sized_name;
  column->kind = KindOf(column->type_oid);
  if (IsTime(word) && column->kind == ColumnKind::kText) column->kind = ColumnKind::kEpoch;
}

const char* QualifiedOperator(Oid op) {
  HeapTuple tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(op));
  if (!HeapTupleIsValid(tuple)) return nullptr;
  Form_pg_operator form = reinterpret_cast<Form_pg_operator>(GETSTRUCT(tuple));
  const char* name =
      psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)), NameStr(form->oprname));
  ReleaseSysCache(tuple);
  return name;
}

// Types whose text is the same whatever the session's settings.
bool HasFixedText(Oid type) {
  switch (getBaseType(type)) {
    case INT2OID:
    case INT4OID:
    case INT8OID:
    case OIDOID:
    case UUIDOID:
    case TEXTOID:
    case VARCHAROID:
    case BPCHAROID:
    case BOOLOID:
    case NUMERICOID:
      return true;
    default:
      return false;
  }
}

void ReadKey(const Record& record, TokenTable* table) {
  bool is_null;
  Datum* names;
  int count;
  deconstruct_array(DatumGetArrayTypeP(Field(record, 2, &is_null)), TEXTOID, -1, false, TYPALIGN_INT, &names, nullptr,
                    &count);
  for (int i = 0; i < count && i < INDEX_MAX_KEYS; i++) {
    KeyColumn* key = &table->keys[table->key_count++];
    key->name = TextDatumGetCString(names[i]);
    key->quoted = quote_identifier(key->name);
    key->reference = psprintf("%s.%s", table->alias, key->quoted);
    Attribute attribute;
    if (!FindAttribute(table, key->name, &attribute)) continue;
    key->type = format_type_extended(getBaseType(attribute.type), -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
    key->type_oid = attribute.type;
    TypeCacheEntry* entry = lookup_type_cache(attribute.type, TYPECACHE_EQ_OPR | TYPECACHE_GT_OPR);
    key->equals = QualifiedOperator(entry->eq_opr);
    key->greater_than = QualifiedOperator(entry->gt_opr);
    if (key->equals == nullptr || key->greater_than == nullptr)
      Trouble(table, psprintf("key column %s of table %s has no order", key->quoted, table->quoted_name));
    table->key_text_varies = table->key_text_varies || !HasFixedText(attribute.type);
  }
}

void ReadCipher(const Record& record, TokenTable* table) {
  const char* cipher = TextField(record, 7);
  table->cipher = strcmp(cipher, "plain") == 0             ? TableCipher::kPlain
                  : strcmp(cipher, "aes-256-gcm-hex") == 0 ? TableCipher::kAes256GcmHex
                  : strcmp(cipher, "functions") == 0       ? TableCipher::kFunctions
                                                           : TableCipher::kNative;
  table->cipher_key = TextField(record, 8);
  table->decrypt_function = TextField(record, 9);
  table->encrypt_function = TextField(record, 10);
}

void ReadStatusValues(const Record& record, TokenTable* table) {
  bool is_null;
  Field(record, 11, &is_null);
  for (int i = 0; i < kTokenStatuses; i++)
    table->status_values[i] = is_null ? kStatusWords[i] : JsonText(record, 11, kStatusWords[i]);
  table->result_success = JsonText(record, 12, "success");
  table->result_failure = JsonText(record, 12, "failure");
}

// The table itself. False: it is gone, or locked.
bool ReadRelation(TokenTable* table) {
  // The refresher has other tables to serve.
  if (AmRefresher() && !ConditionalLockRelationOid(table->relation, AccessShareLock)) {
    table->quoted_name = psprintf("%u", table->relation);
    table->locked = true;
    Trouble(table, "another transaction holds the table locked");
    return false;
  }
  Relation relation = try_relation_open(table->relation, AccessShareLock);
  if (relation == nullptr) {
    table->quoted_name = psprintf("%u", table->relation);
    Trouble(table, "the table does not exist any more");
    return false;
  }
  table->owner = relation->rd_rel->relowner;
  table->quoted_name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(relation)),
                                                  RelationGetRelationName(relation));
  table->alias = quote_identifier(pstrdup(RelationGetRelationName(relation)));
  relation_close(relation, AccessShareLock);
  return true;
}

void ReadRecord(const Record& record, TokenTable* table) {
  bool is_null;
  table->relation = DatumGetObjectId(Field(record, 1, &is_null));
  table->built_in = table->id == kBuiltInTokenTable;
  table->place = table->built_in ? kCredentialPlace : psprintf("token_refresh.token_table:%d", table->id);
  table->provider = TextField(record, 4);
  table->label = TextField(record, 5);
  table->filter = TextField(record, 6);
  table->time_zone = TextField(record, 13);
  table->has_trigger = DatumGetBool(Field(record, 14, &is_null));
  table->poll_interval = IntervalField(record, 15);
  table->refresh_margin = IntervalField(record, 16);
  table->attached_at = DatumGetTimestampTz(Field(record, 17, &is_null));
  ReadCipher(record, table);
  ReadStatusValues(record, table);
  if (!ReadRelation(table)) return;
  ReadKey(record, table);
  for (int i = 0; i < kTokenColumns; i++) ReadColumn(record, static_cast<TokenColumn>(i), table);
}

// Null when there is none.
TokenTable* Load(int32_t id) {
  Oid types[] = {INT4OID};
  Datum values[] = {Int32GetDatum(id)};
  // Also what this very statement has attached.
  if (SPI_execute_with_args(kReadTable, 1, types, values, nullptr, false, 1) != SPI_OK_SELECT)
    elog(ERROR, "token_refresh: reading token_table failed");
  if (SPI_processed == 0) return nullptr;
  Record record = {SPI_tuptable->vals[0], SPI_tuptable->tupdesc};
  MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "token_refresh token table", ALLOCSET_SMALL_SIZES);
  MemoryContext previous = MemoryContextSwitchTo(context);
  TokenTable* table = static_cast<TokenTable*>(palloc0(sizeof(TokenTable)));
  table->context = context;
  table->id = id;
  table->version = CurrentVersion();
  ReadRecord(record, table);
  MemoryContextSwitchTo(previous);
  MemoryContextSetParent(context, CacheMemoryContext);
  return table;
}

void FreePlans(void* statements) { ReleaseStatements(static_cast<TokenTableStatements*>(statements)); }

// The old description may be in use further up the stack: it goes with the transaction.
void Discard(TokenTable* table) {
  if (table->statements != nullptr) {
    MemoryContextCallback* callback =
        static_cast<MemoryContextCallback*>(MemoryContextAllocZero(table->context, sizeof(MemoryContextCallback)));
    callback->func = FreePlans;
    callback->arg = table->statements;
    MemoryContextRegisterResetCallback(table->context, callback);
  }
  MemoryContextSetParent(table->context, TopTransactionContext);
}

TokenTable** Position(int32_t id) {
  TokenTable** position = &tables;
  while (*position != nullptr && (*position)->id != id) position = &(*position)->next;
  return position;
}

}  // namespace

TokenTable* GetTokenTable(int32_t id) {
  static bool registered = false;
  if (!registered) {
    CacheRegisterRelcacheCallback(RelationChanged, 0);
    registered = true;
  }
  AcceptInvalidationMessages();
  TokenTable* known = *Position(id);
  if (known != nullptr && !known->locked && known->version == CurrentVersion()) return known;
  TokenTable* fresh = Load(id);
  TokenTable** position = Position(id);
  if (fresh == nullptr && *position == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("token table %d is not attached", id)));
  if (fresh == nullptr) {
    (*position)->detached = true;
    (*position)->version = CurrentVersion();
    return *position;
  }
  TokenTable* old = *position;
  fresh->next = old != nullptr ? old->next : nullptr;
  *position = fresh;
  if (old != nullptr) Discard(old);
  return fresh;
}

const TokenTable* KnownTokenTable(int32_t id) { return *Position(id); }

int32_t TokenTableOf(Oid relation) {
  Oid types[] = {REGCLASSOID};
  Datum values[] = {ObjectIdGetDatum(relation)};
  if (SPI_execute_with_args("SELECT id FROM token_refresh.token_table WHERE relation = $1", 1, types, values, nullptr,
                            true, 1) != SPI_OK_SELECT)
    elog(ERROR, "token_refresh: reading token_table failed");
  if (SPI_processed == 0) return 0;
  bool is_null;
  return DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
}

TokenStatus StatusOf(const TokenTable& table, const char* text) {
  for (int i = 0; text != nullptr && i < kTokenStatuses; i++)
    if (table.status_values[i] != nullptr && strcmp(table.status_values[i], text) == 0)
      return static_cast<TokenStatus>(i);
  return kConnected;
}

}  // namespace token_refresh
