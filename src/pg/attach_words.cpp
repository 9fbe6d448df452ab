// The part of attach_table that checks whether the columns of status, result and error can hold what
// is to be written there: an enum its labels, a varchar its length, and NULL where there is no error.
#include "pg/attach_checks.h"
#include "pg/token_tables.h"

extern "C" {
#include "mb/pg_wchar.h"
}

namespace token_refresh {

namespace {

// The labels of an enum, in its order.
const char* LabelsOf(Oid type) {
  const char* sql = "SELECT pg_catalog.string_agg(pg_catalog.quote_ident(enumlabel), ', ' ORDER BY enumsortorder)"
                    " FROM pg_catalog.pg_enum WHERE enumtypid = $1";
  Oid types[] = {OIDOID};
  Datum values[] = {ObjectIdGetDatum(type)};
  MemoryContext context = CurrentMemoryContext;
  if (SPI_connect() != SPI_OK_CONNECT) elog(ERROR, "token_refresh: SPI_connect failed");
  if (SPI_execute_with_args(sql, 1, types, values, nullptr, true, 1) != SPI_OK_SELECT)
    elog(ERROR, "token_refresh: reading the labels of an enum failed");
  const char* found = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
  const char* list = found == nullptr ? "" : MemoryContextStrdup(context, found);
  SPI_finish();
  return list;
}

bool HasLabel(Oid type, const char* label) {
  return strlen(label) < NAMEDATALEN &&
         SearchSysCacheExists2(ENUMTYPOIDNAME, ObjectIdGetDatum(type), CStringGetDatum(label));
}

struct WordColumn {
  const char* option;
  const char* name;
  Oid type;        // the base type
  int32 modifier;  // of the base type
};

bool FindWordColumn(Oid relation, const AttachPlan& plan, const char* word, const char* option, WordColumn* column) {
  column->option = option;
  column->name = ColumnOf(plan, word);
  AttrNumber number = column->name == nullptr ? InvalidAttrNumber : get_attnum(relation, column->name);
  if (number <= 0) return false;
  Oid type, collation;
  get_atttypetypmodcoll(relation, number, &type, &column->modifier, &collation);
  column->type = getBaseTypeAndTypmod(type, &column->modifier);
  return true;
}

void CheckWord(const WordColumn& column, const char* text, Problems* problems) {
  if (get_typtype(column.type) == TYPTYPE_ENUM && !HasLabel(column.type, text))
    AddProblem(problems, "option \"%s\": type %s of column \"%s\" has no label \"%s\"; it has %s", column.option,
               format_type_be(column.type), column.name, text, LabelsOf(column.type));
  if (column.type == VARCHAROID && column.modifier > VARHDRSZ &&
      pg_mbstrlen(text) > column.modifier - static_cast<int>(VARHDRSZ))
    AddProblem(problems, "option \"%s\": \"%s\" is too long for column \"%s\" of type %s", column.option, text,
               column.name, format_type_with_typemod(column.type, column.modifier));
}

// The text under key; null: there is none.
const char* TextOf(Jsonb* object, const char* key) {
  JsonbValue buffer;
  JsonbValue* value = getKeyJsonValueFromContainer(&object->root, key, strlen(key), &buffer);
  return value == nullptr ? nullptr : pnstrdup(value->val.string.val, value->val.string.len);
}

// After a success there is no error.
void CheckErrorColumn(Oid relation, const AttachPlan& plan, Problems* problems) {
  const char* name = ColumnOf(plan, "last_error");
  HeapTuple tuple = name == nullptr ? nullptr : SearchSysCacheAttName(relation, name);
  if (!HeapTupleIsValid(tuple)) return;
  const bool not_null = reinterpret_cast<Form_pg_attribute>(GETSTRUCT(tuple))->attnotnull;
  ReleaseSysCache(tuple);
  if (not_null)
    AddProblem(problems, "option \"error_column\": column \"%s\" is NOT NULL, but is set to NULL by a success", name);
}

}  // namespace

void CheckWords(Oid relation, const AttachPlan& plan, Problems* problems) {
  WordColumn column;
  CheckErrorColumn(relation, plan, problems);
  if (FindWordColumn(relation, plan, "status", "status_values", &column)) {
    for (const char* word : kStatusWords) {
      const char* text = plan.status_values == nullptr ? word : TextOf(plan.status_values, word);
      if (text != nullptr) CheckWord(column, text, problems);
    }
  }
  if (!FindWordColumn(relation, plan, "result", "result_values", &column)) return;
  for (const char* word : {"success", "failure"}) {
    const char* text = TextOf(plan.result_values, word);
    if (text != nullptr) CheckWord(column, text, problems);
  }
}

}  // namespace token_refresh
