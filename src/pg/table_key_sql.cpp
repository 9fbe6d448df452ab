#include "pg/table_key_sql.h"

extern "C" {
#include "access/transam.h"
#include "catalog/pg_collation.h"
#include "lib/stringinfo.h"
#include "parser/parse_coerce.h"
#include "utils/json.h"
}

namespace token_refresh {

namespace {

// The n-th part of the row key that expression holds, as text.
const char* KeyPart(const TokenTable& table, const char* expression, int n) {
  if (table.key_count == 1) return expression;
  return psprintf("(%s::pg_catalog.jsonb OPERATOR(pg_catalog.->>) %d)", expression, n);
}

// Whoever owns a type may make casts of it: those must not run in the name of a reader, and the trigger does not know them.
bool HasOwnCasts(Oid type) { return getBaseType(type) >= FirstNormalObjectId; }

// As a cast to text has it, which for some types is not what they print.
char* ColumnAsText(HeapTuple tuple, TupleDesc desc, int number) {
  Oid function;
  const Oid type = getBaseType(SPI_gettypeid(desc, number));
  const bool casts = find_coercion_pathway(TEXTOID, type, COERCION_EXPLICIT, &function) == COERCION_PATH_FUNC;
  if (!casts || HasOwnCasts(type)) return SPI_getvalue(tuple, desc, number);
  bool is_null;
  Datum value = SPI_getbinval(tuple, desc, number, &is_null);
  return is_null ? nullptr : TextDatumGetCString(OidFunctionCall1Coll(function, DEFAULT_COLLATION_OID, value));
}

// A key is never null, but may print as nothing.
const char* KeyAsText(const KeyColumn& key) {
  return psprintf(HasOwnCasts(key.type_oid) ? "pg_catalog.concat(%s)" : "%s::text", key.reference);
}

}  // namespace

bool IsUsableKey(const char* row_key) { return row_key != nullptr && strlen(row_key) <= kLongestRowKey; }

const char* AsText(const char* reference, Oid type) {
  return psprintf(HasOwnCasts(type) ? "NULLIF(pg_catalog.concat(%s), '')" : "%s::text", reference);
}

const char* KeyMatchForReader(const TokenTable& table, const char* expression) {
  StringInfoData sql;
  initStringInfo(&sql);
  for (int i = 0; i < table.key_count; i++) {
    const KeyColumn& key = table.keys[i];
    const char* part = KeyPart(table, expression, i);
    appendStringInfoString(&sql, i == 0 ? "" : " AND ");
    if (HasOwnCasts(key.type_oid))
      appendStringInfo(&sql, "pg_catalog.concat(%s) OPERATOR(pg_catalog.=) %s", key.reference, part);
    else
      appendStringInfo(&sql, "%s %s %s::%s", key.reference, key.equals, part, key.type);
  }
  return sql.data;
}

const char* KeyMatch(const TokenTable& table, const char* expression) {
  StringInfoData sql;
  initStringInfo(&sql);
  for (int i = 0; i < table.key_count; i++) {
    const KeyColumn& key = table.keys[i];
    appendStringInfo(&sql, "%s%s %s %s::%s", i == 0 ? "" : " AND ", key.reference, key.equals,
                     KeyPart(table, expression, i), key.type);
  }
  return sql.data;
}

const char* KeyText(const TokenTable& table) {
  if (table.key_count == 1) return KeyAsText(table.keys[0]);
  StringInfoData sql;
  initStringInfo(&sql);
  for (int i = 0; i < table.key_count; i++)
    appendStringInfo(&sql, "%s%s", i == 0 ? "pg_catalog.jsonb_build_array(" : ", ",
                     KeyAsText(table.keys[i]));
  appendStringInfoString(&sql, ")::text");
  return sql.data;
}

const char* KeyBeyond(const TokenTable& table, const char* expression) {
  StringInfoData sql;
  initStringInfo(&sql);
  for (int i = 0; i < table.key_count; i++) {
    const KeyColumn& key = table.keys[i];
    const char* part = psprintf("%s::%s", KeyPart(table, expression, i), key.type);
    const bool last = i == table.key_count - 1;
    appendStringInfo(&sql, "(%s %s %s", key.reference, key.greater_than, part);
    if (!last) appendStringInfo(&sql, " OR %s %s %s AND ", key.reference, key.equals, part);
  }
  for (int i = 0; i < table.key_count; i++) appendStringInfoChar(&sql, ')');
  return sql.data;
}

const char* KeyOrder(const TokenTable& table) {
  StringInfoData sql;
  initStringInfo(&sql);
  for (int i = 0; i < table.key_count; i++) appendStringInfo(&sql, "%s%s", i == 0 ? "" : ", ", table.keys[i].reference);
  return sql.data;
}

char* CanonicalKeySql(const TokenTable& table) {
  StringInfoData canonical, clear;
  for (StringInfo list : {&canonical, &clear}) initStringInfo(list);
  for (int i = 0; i < table.key_count; i++) {
    const KeyColumn& key = table.keys[i];
    const char* given = KeyPart(table, "$1", i);
    // A cast of somebody else is not run in the name of the caller; what such a type prints is taken as it is.
    const char* own = HasOwnCasts(key.type_oid) ? given : psprintf("%s::%s::text", given, key.sized_type);
    appendStringInfo(&canonical, "%s%s", i == 0 ? "" : ", ", own);
    if (key.text_varies) appendStringInfo(&clear, " AND %s OPERATOR(pg_catalog.=) %s", own, given);
  }
  if (table.key_count == 1) return psprintf("SELECT %s, true%s", canonical.data, clear.data);
  return psprintf("SELECT pg_catalog.jsonb_build_array(%s)::text, true%s", canonical.data, clear.data);
}

char* RowKey(const TokenTable& table, HeapTuple tuple, TupleDesc desc) {
  if (table.key_count == 1) return ColumnAsText(tuple, desc, SPI_fnumber(desc, table.keys[0].name));
  StringInfoData json;
  initStringInfo(&json);
  for (int i = 0; i < table.key_count; i++) {
    appendStringInfoString(&json, i == 0 ? "[" : ", ");
    const char* part = ColumnAsText(tuple, desc, SPI_fnumber(desc, table.keys[i].name));
    if (part == nullptr) return nullptr;
    escape_json(&json, part);
  }
  appendStringInfoChar(&json, ']');
  return json.data;
}

}  // namespace token_refresh
