// The part of a table's description that says how its rows are told apart.
#include "pg/table_description.h"
#include "pg/table_watch.h"

extern "C" {
#include "catalog/pg_index.h"
#include "catalog/pg_operator.h"
#include "utils/typcache.h"
}

namespace token_refresh {

namespace {

const char* QualifiedOperator(Oid op, Watched* watched) {
  HeapTuple tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(op));
  if (!HeapTupleIsValid(tuple)) return nullptr;
  Form_pg_operator form = reinterpret_cast<Form_pg_operator>(GETSTRUCT(tuple));
  const char* name =
      psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)), NameStr(form->oprname));
  Watch(watched, OPEROID, op);
  Watch(watched, NAMESPACEOID, form->oprnamespace);
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

bool IsKeyColumn(const TokenTable& table, const Form_pg_attribute column) {
  for (int i = 0; column->attnotnull && i < table.key_count; i++)
    if (strcmp(table.keys[i].name, NameStr(column->attname)) == 0) return true;
  return false;
}

// Whether an index keeps the key unique, and each row has one. The index itself need not be locked for that.
bool IsKeyIndex(const TokenTable& table, Oid index, TupleDesc desc) {
  HeapTuple tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
  if (!HeapTupleIsValid(tuple)) return false;
  const Form_pg_index form = reinterpret_cast<Form_pg_index>(GETSTRUCT(tuple));
  bool is_key = form->indisunique && form->indimmediate && form->indisvalid && form->indnkeyatts == table.key_count &&
                heap_attisnull(tuple, Anum_pg_index_indexprs, nullptr) &&
                heap_attisnull(tuple, Anum_pg_index_indpred, nullptr);
  for (int i = 0; is_key && i < form->indnkeyatts; i++)
    is_key = form->indkey.values[i] > 0 && IsKeyColumn(table, TupleDescAttr(desc, form->indkey.values[i] - 1));
  ReleaseSysCache(tuple);
  return is_key;
}

const char* KeyNames(const TokenTable& table) {
  const char* names = table.keys[0].name;
  for (int i = 1; i < table.key_count; i++) names = psprintf("%s, %s", names, table.keys[i].name);
  return names;
}

}  // namespace

void DescribeKey(ArrayType* column_names, TokenTable* table) {
  Datum* names;
  int count;
  deconstruct_array(column_names, TEXTOID, -1, false, TYPALIGN_INT, &names, nullptr, &count);
  for (int i = 0; i < count && i < INDEX_MAX_KEYS; i++) {
    KeyColumn* key = &table->keys[table->key_count++];
    key->name = TextDatumGetCString(names[i]);
    key->quoted = quote_identifier(key->name);
    key->reference = psprintf("%s.%s", table->alias, key->quoted);
    Attribute attribute;
    if (!FindAttribute(table, key->name, &attribute)) continue;
    constexpr bits16 kHow = FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY;
    int32 modifier = attribute.modifier;
    const Oid base = getBaseTypeAndTypmod(attribute.type, &modifier);
    key->sized_type = format_type_extended(base, modifier, kHow);
    key->type = format_type_extended(base, -1, kHow);
    key->type_oid = attribute.type;
    TypeCacheEntry* entry = lookup_type_cache(attribute.type, TYPECACHE_EQ_OPR | TYPECACHE_GT_OPR);
    key->equals = QualifiedOperator(entry->eq_opr, table->watched);
    key->greater_than = QualifiedOperator(entry->gt_opr, table->watched);
    if (key->equals == nullptr || key->greater_than == nullptr)
      Trouble(table, psprintf("key column %s of table %s has no order", key->quoted, table->quoted_name));
    key->text_varies = !HasFixedText(attribute.type);
    table->key_text_varies = table->key_text_varies || key->text_varies;
  }
}

void CheckKey(TokenTable* table) {
  Relation relation = relation_open(table->relation, NoLock);
  bool unique = false;
  ListCell* cell;
  foreach (cell, RelationGetIndexList(relation))
    unique = unique || IsKeyIndex(*table, lfirst_oid(cell), RelationGetDescr(relation));
  relation_close(relation, NoLock);
  if (!unique)
    Trouble(table, psprintf("the key (%s) of table %s is not unique and NOT NULL any more", KeyNames(*table),
                            table->quoted_name));
}

}  // namespace token_refresh
