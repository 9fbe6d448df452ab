#include "pg/table_description.h"

#include "pg/catalog.h"
#include "pg/table_watch.h"
#include "pg/workers.h"

extern "C" {
#include "access/attnum.h"
#include "parser/parse_func.h"
#include "storage/lmgr.h"
#include "utils/rls.h"
}

namespace token_refresh {

namespace {

constexpr const char* kColumnWords[kTokenColumns] = {
    "provider",  "subject",    "label",         "access_token", "refresh_token",      "token_type", "scope",
    "captured",  "client_id",  "client_secret", "issued_at",    "expires_at",         "refresh_expires_at",
    "status",    "last_error", "result",        "refreshed_at", "updated_at"};

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

// The function of exactly these types: others of that name may be somebody else's.
void CheckFunction(TokenTable* table, const char* name, Oid argument, Oid result) {
  Oid arguments[] = {argument, TEXTOID};
  List* names = textToQualifiedNameList(cstring_to_text(name));
  const Oid function = LookupFuncName(names, lengthof(arguments), arguments, true);
  if (OidIsValid(function) && get_func_rettype(function) == result) {
    Watch(table->watched, PROCOID, function);
    Watch(table->watched, NAMESPACEOID, get_func_namespace(function));
    return;
  }
  WatchAll(table->watched, PROCOID);
  WatchAll(table->watched, NAMESPACEOID);
  Trouble(table, psprintf("there is no function %s(%s, text) that returns %s", name, format_type_be(argument),
                          format_type_be(result)));
}

void CheckFunctions(TokenTable* table) {
  if (table->cipher != TableCipher::kFunctions) return;
  const Oid stored = table->columns[kColumnAccessToken].kind == ColumnKind::kBytea ? BYTEAOID : TEXTOID;
  CheckFunction(table, table->decrypt_function, stored, TEXTOID);
  CheckFunction(table, table->encrypt_function, TEXTOID, stored);
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

// What was attached by one role must not be run as another: that would be for the new owner to say.
void CheckOwner(const Record& record, TokenTable* table) {
  if (table->built_in) return;
  const char* then = TextField(record, 18);
  const char* now = GetUserNameFromId(table->owner, true);
  Watch(table->watched, AUTHOID, table->owner);
  table->owner_changed = then == nullptr || now == nullptr || strcmp(then, now) != 0;
  if (table->owner_changed)
    Trouble(table, psprintf("table %s has another owner now: its new owner must detach and attach it",
                            table->quoted_name));
}

// The table itself, which stays locked. False: it is gone, or locked by others.
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
  table->schema = get_namespace_name(RelationGetNamespace(relation));
  table->name = pstrdup(RelationGetRelationName(relation));
  Watch(table->watched, NAMESPACEOID, RelationGetNamespace(relation));
  relation_close(relation, NoLock);
  table->quoted_name = quote_qualified_identifier(table->schema, table->name);
  if (strcmp(table->alias, kRowsAlias) == 0)
    Trouble(table, psprintf("a table that was called %s when it was attached cannot be served", kRowsAlias));
  table->hides_rows = check_enable_rls(table->relation, table->owner, true) == RLS_ENABLED;
  return true;
}

}  // namespace

bool FindAttribute(TokenTable* table, const char* name, Attribute* attribute) {
  AttrNumber number = get_attnum(table->relation, name);
  if (number <= 0) {
    Trouble(table, psprintf("column %s of table %s does not exist", quote_identifier(name), table->quoted_name));
    return false;
  }
  Oid collation;
  get_atttypetypmodcoll(table->relation, number, &attribute->type, &attribute->modifier, &collation);
  constexpr bits16 kHow = FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY;
  attribute->name = format_type_extended(attribute->type, -1, kHow);
  attribute->sized_name = format_type_extended(attribute->type, attribute->modifier, kHow);
  WatchType(table->watched, attribute->type);
  return true;
}

void DescribeTable(HeapTuple tuple, TupleDesc desc, TokenTable* table) {
  const Record record = {tuple, desc};
  bool is_null;
  table->relation = DatumGetObjectId(Field(record, 1, &is_null));
  table->built_in = table->id == kBuiltInTokenTable;
  table->place = table->built_in ? kCredentialPlace : psprintf("token_refresh.token_table:%d", table->id);
  table->provider = TextField(record, 4);
  table->label = TextField(record, 5);
  table->filter = TextField(record, 6);
  table->time_zone = TextField(record, 13);
  table->alias = quote_identifier(TextField(record, 19));
  table->has_trigger = DatumGetBool(Field(record, 14, &is_null));
  table->poll_interval = IntervalField(record, 15);
  table->refresh_margin = IntervalField(record, 16);
  table->attached_at = DatumGetTimestampTz(Field(record, 17, &is_null));
  ReadCipher(record, table);
  ReadStatusValues(record, table);
  if (!ReadRelation(table)) return;
  CheckOwner(record, table);
  DescribeKey(DatumGetArrayTypeP(Field(record, 2, &is_null)), table);
  for (int i = 0; i < kTokenColumns; i++) ReadColumn(record, static_cast<TokenColumn>(i), table);
  CheckKey(table);
  CheckFunctions(table);
}

}  // namespace token_refresh
