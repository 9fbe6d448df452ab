#include "pg/table_sql.h"

extern "C" {
#include "access/transam.h"
#include "catalog/pg_collation.h"
#include "lib/stringinfo.h"
#include "parser/parse_coerce.h"
#include "utils/json.h"
}

namespace token_refresh {

namespace {

const char* Quoted(const TokenTable& table, TokenColumn column) { return table.columns[column].quoted; }

const char* Reference(const TokenTable& table, TokenColumn column) { return table.columns[column].reference; }

// The table goes by its own name, which a filter may use, so nothing else here may have it.
const char* From(const TokenTable& table) { return psprintf("%s AS %s", table.quoted_name, table.alias); }

// The n-th part of the row key that expression holds, as text.
const char* KeyPart(const TokenTable& table, const char* expression, int n) {
  if (table.key_count == 1) return expression;
  return psprintf("(%s::pg_catalog.jsonb OPERATOR(pg_catalog.->>) %d)", expression, n);
}

// Whoever owns a type may make casts of it: those must not run in the name of a reader, and the trigger does not know them.
bool HasOwnCasts(Oid type) { return getBaseType(type) >= FirstNormalObjectId; }

// The value as text; as RowKey and SPI_getvalue have it.
const char* AsText(const char* reference, Oid type) {
  return psprintf(HasOwnCasts(type) ? "NULLIF(pg_catalog.concat(%s), '')" : "%s::text", reference);
}

// As KeyMatch, without a cast that somebody else may have made; the index may not serve.
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

// "table.key = _new.key::type", so that the table's own index on its key serves.
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
  if (table.key_count == 1) return AsText(table.keys[0].reference, table.keys[0].type_oid);
  StringInfoData sql;
  initStringInfo(&sql);
  for (int i = 0; i < table.key_count; i++)
    appendStringInfo(&sql, "%s%s", i == 0 ? "pg_catalog.jsonb_build_array(" : ", ",
                     AsText(table.keys[i].reference, table.keys[i].type_oid));
  appendStringInfoString(&sql, ")::text");
  return sql.data;
}

// "beyond the cursor" in the order of the key, in a form that its index serves.
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

const char* TextOr(const TokenTable& table, TokenColumn column, const char* otherwise) {
  return Has(table, column) ? AsText(Reference(table, column), table.columns[column].type_oid) : otherwise;
}

const char* Subject(const TokenTable& table) { return TextOr(table, kColumnSubject, KeyText(table)); }

const char* Label(const TokenTable& table) {
  return TextOr(table, kColumnLabel,
                psprintf("%s::text", quote_literal_cstr(table.label != nullptr ? table.label : "")));
}

const char* ProviderName(const TokenTable& table) {
  return TextOr(table, kColumnProvider,
                psprintf("%s::text", quote_literal_cstr(table.provider != nullptr ? table.provider : "")));
}

// The owner's filter may end in a comment.
const char* FilterHolds(const TokenTable& table) {
  return table.filter == nullptr ? "true" : psprintf("((%s\n) IS TRUE)", table.filter);
}

const char* TimeFrom(const TokenTable& table, TokenColumn column) {
  if (!Has(table, column)) return "NULL::timestamptz";
  const char* column_value = Reference(table, column);
  switch (table.columns[column].kind) {
    case ColumnKind::kTimestamp:
      return psprintf("(%s AT TIME ZONE %s)", column_value, quote_literal_cstr(table.time_zone));
    case ColumnKind::kEpoch:
      return psprintf("pg_catalog.to_timestamp(%s::double precision)", column_value);
    default:
      return psprintf("%s::timestamptz", column_value);
  }
}

const char* TimeTo(const TokenTable& table, TokenColumn column, const char* expression) {
  const char* type = table.columns[column].type;
  switch (table.columns[column].kind) {
    case ColumnKind::kTimestamp:
      return psprintf("(%s AT TIME ZONE %s)::%s", expression, quote_literal_cstr(table.time_zone), type);
    case ColumnKind::kEpoch:
      return psprintf("pg_catalog.floor(EXTRACT(EPOCH FROM %s))::%s", expression, type);
    default:
      return psprintf("%s::%s", expression, type);
  }
}

// The refresh token in a form that compares with what was loaded.
const char* StoredRefreshToken(const TokenTable& table) {
  const char* stored = Reference(table, kColumnRefreshToken);
  return table.columns[kColumnRefreshToken].kind == ColumnKind::kBytea ? stored : psprintf("%s::text", stored);
}

const char* HasRefreshToken(const TokenTable& table) {
  const char* stored = StoredRefreshToken(table);
  return psprintf("(%s IS NOT NULL AND %s <> '')", stored, stored);
}

const char* Encrypted(const TokenTable& table, TokenColumn column, const char* expression) {
  const char* type = table.columns[column].type;
  if (table.cipher != TableCipher::kFunctions) return psprintf("%s::%s", expression, type);
  return psprintf("%s(%s, %s)::%s", table.encrypt_function, expression, Subject(table), type);
}

void AppendSet(StringInfo sql, const TokenTable& table, TokenColumn column, const char* expression) {
  if (Has(table, column)) appendStringInfo(sql, ", %s = %s", Quoted(table, column), expression);
}

void AppendTime(StringInfo sql, const TokenTable& table, TokenColumn column, const char* expression) {
  if (Has(table, column)) AppendSet(sql, table, column, TimeTo(table, column, expression));
}

void AppendText(StringInfo sql, const TokenTable& table, TokenColumn column, const char* expression) {
  if (Has(table, column)) AppendSet(sql, table, column, psprintf("%s::%s", expression, table.columns[column].type));
}

// Nothing is appended for a value that the mapping leaves out.
void AppendWord(StringInfo sql, const TokenTable& table, TokenColumn column, const char* value) {
  if (value != nullptr) AppendText(sql, table, column, quote_literal_cstr(value));
}

// Where what is null the column stays as it is.
void AppendUnlessNull(StringInfo sql, const TokenTable& table, TokenColumn column, const char* what,
                      const char* expression) {
  if (Has(table, column))
    AppendSet(sql, table, column,
              psprintf("CASE WHEN %s IS NULL THEN %s ELSE %s END", what, Reference(table, column), expression));
}

// A condition on the row: the application has not said that it is over.
const char* NotDisconnected(const TokenTable& table) {
  if (!Has(table, kColumnStatus) || table.status_values[kDisconnected] == nullptr) return "true";
  return psprintf("%s::text IS DISTINCT FROM %s", Reference(table, kColumnStatus),
                  quote_literal_cstr(table.status_values[kDisconnected]));
}

// Only the application takes back that it has disconnected a credential.
void AppendConnected(StringInfo sql, const TokenTable& table) {
  const char* connected = table.status_values[kConnected];
  if (!Has(table, kColumnStatus) || connected == nullptr) return;
  const char* stays = psprintf("%s::text", Reference(table, kColumnStatus));
  AppendText(sql, table, kColumnStatus,
             psprintf("CASE WHEN %s THEN %s ELSE %s END", NotDisconnected(table), quote_literal_cstr(connected), stays));
}

void AppendRefreshExpiry(StringInfo sql, const TokenTable& table) {
  if (!Has(table, kColumnRefreshExpiresAt)) return;
  // Another refresh token has another deadline, or none.
  appendStringInfo(sql, ", %s = CASE WHEN _new.refresh IS NULL THEN coalesce(_new.refresh_expires_at, %s)"
                   " ELSE _new.refresh_expires_at END",
                   Quoted(table, kColumnRefreshExpiresAt), Reference(table, kColumnRefreshExpiresAt));
}

}  // namespace

Oid StoredArrayType(const TokenTable& table) {
  return table.columns[kColumnRefreshToken].kind == ColumnKind::kBytea ? BYTEAARRAYOID : TEXTARRAYOID;
}

Oid NewTokenArrayType(const TokenTable& table) {
  return table.cipher == TableCipher::kFunctions ? static_cast<Oid>(TEXTARRAYOID) : StoredArrayType(table);
}

char* LoadSql(const TokenTable& table) {
  const char* refresh = StoredRefreshToken(table);
  const char* opened = table.cipher != TableCipher::kFunctions
                           ? "NULL::text"
                           : psprintf("CASE WHEN %s THEN %s(%s, %s)::text END", HasRefreshToken(table),
                                      table.decrypt_function, Reference(table, kColumnRefreshToken), Subject(table));
  return psprintf("SELECT _new.n, %s, %s, CASE WHEN %s THEN %s END, %s, %s, %s FROM unnest($1, $2) AS _new(n, key)"
                  " JOIN %s ON %s",
                  Subject(table), Label(table), HasRefreshToken(table), refresh, opened, FilterHolds(table),
                  TextOr(table, kColumnStatus, "NULL::text"), From(table), KeyMatch(table, "_new.key"));
}

char* SaveSql(const TokenTable& table) {
  StringInfoData sql;
  initStringInfo(&sql);
  appendStringInfo(&sql, "UPDATE %s SET %s = %s, %s = CASE WHEN _new.refresh IS NULL THEN %s ELSE %s END", From(table),
                   Quoted(table, kColumnAccessToken),
                   Encrypted(table, kColumnAccessToken, "_new.access"),
                   Quoted(table, kColumnRefreshToken), Reference(table, kColumnRefreshToken),
                   Encrypted(table, kColumnRefreshToken, "_new.refresh"));
  AppendText(&sql, table, kColumnTokenType, "_new.token_type");
  if (Has(table, kColumnScope))
    AppendText(&sql, table, kColumnScope, psprintf("coalesce(_new.scope, %s::text)", Reference(table, kColumnScope)));
  AppendTime(&sql, table, kColumnIssuedAt, "_new.issued_at");
  AppendTime(&sql, table, kColumnExpiresAt, "_new.expires_at");
  AppendRefreshExpiry(&sql, table);
  AppendConnected(&sql, table);
  AppendText(&sql, table, kColumnLastError, "NULL");
  AppendWord(&sql, table, kColumnResult, table.result_success);
  AppendTime(&sql, table, kColumnRefreshedAt, "_new.issued_at");
  AppendTime(&sql, table, kColumnUpdatedAt, "_new.issued_at");
  appendStringInfo(&sql, " FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS _new(n, key, old, access, refresh,"
                   " token_type, scope, issued_at, expires_at, refresh_expires_at) WHERE %s AND %s = _new.old"
                   " RETURNING _new.n", KeyMatch(table, "_new.key"), StoredRefreshToken(table));
  return sql.data;
}

char* MarkSql(const TokenTable& table) {
  StringInfoData sql;
  initStringInfo(&sql);
  // A failure brings a new status, or a new refresh token. Setting the refresh token to itself keeps this an
  // UPDATE, and so a row lock, for tables without a status column as well.
  appendStringInfo(&sql, "UPDATE %s SET %s = CASE WHEN _new.refresh IS NULL THEN %s ELSE %s END", From(table),
                   Quoted(table, kColumnRefreshToken), Reference(table, kColumnRefreshToken),
                   Encrypted(table, kColumnRefreshToken, "_new.refresh"));
  if (Has(table, kColumnRefreshExpiresAt))
    AppendUnlessNull(&sql, table, kColumnRefreshExpiresAt, "_new.refresh",
                     TimeTo(table, kColumnRefreshExpiresAt, "_new.refresh_expires_at"));
  if (Has(table, kColumnStatus))
    AppendUnlessNull(&sql, table, kColumnStatus, "_new.status",
                     psprintf("_new.status::%s", table.columns[kColumnStatus].type));
  if (Has(table, kColumnLastError))
    AppendUnlessNull(&sql, table, kColumnLastError, "_new.last_error",
                     psprintf("_new.last_error::%s", table.columns[kColumnLastError].sized_type));
  if (Has(table, kColumnResult) && table.result_failure != nullptr)
    AppendUnlessNull(&sql, table, kColumnResult, "_new.last_error",
                     psprintf("%s::%s", quote_literal_cstr(table.result_failure), table.columns[kColumnResult].type));
  AppendTime(&sql, table, kColumnUpdatedAt, "pg_catalog.now()");
  appendStringInfo(&sql, " FROM unnest($1, $2, $3, $4, $5, $6, $7) AS _new(n, key, old, refresh, refresh_expires_at,"
                   " status, last_error) WHERE %s AND %s = _new.old AND (_new.refresh IS NOT NULL OR %s)"
                   " RETURNING _new.n", KeyMatch(table, "_new.key"), StoredRefreshToken(table), NotDisconnected(table));
  return sql.data;
}

char* ScanSql(const TokenTable& table, bool has_cursor, int limit) {
  return psprintf("SELECT %s, %s, %s, %s, %s, %s, %s, %s, %s, %s FROM %s%s%s ORDER BY %s LIMIT %d",
                  KeyText(table), ProviderName(table), Subject(table), Label(table), HasRefreshToken(table),
                  TextOr(table, kColumnStatus, "NULL::text"), TimeFrom(table, kColumnIssuedAt),
                  TimeFrom(table, kColumnExpiresAt), TimeFrom(table, kColumnRefreshExpiresAt), FilterHolds(table),
                  From(table), has_cursor ? " WHERE " : "", has_cursor ? KeyBeyond(table, "$1") : "",
                  KeyOrder(table), limit);
}

char* ExistingSql(const TokenTable& table) {
  return psprintf("SELECT _new.n FROM unnest($1, $2) AS _new(n, key) JOIN %s ON %s", From(table),
                  KeyMatch(table, "_new.key"));
}

char* ReadSql(const TokenTable& table) {
  const bool bytes = table.columns[kColumnAccessToken].kind == ColumnKind::kBytea;
  return psprintf("SELECT %s, %s, %s, %s%s, %s, %s, %s, %s, %s FROM %s WHERE %s", KeyText(table), ProviderName(table),
                  Subject(table), Reference(table, kColumnAccessToken), bytes ? "" : "::text", HasRefreshToken(table),
                  TextOr(table, kColumnScope, "NULL::text"), TextOr(table, kColumnStatus, "NULL::text"),
                  TimeFrom(table, kColumnIssuedAt), TimeFrom(table, kColumnExpiresAt), From(table),
                  KeyMatchForReader(table, "$1"));
}

char* SealedSql(const TokenTable& table, bool has_cursor, int limit) {
  return psprintf("SELECT %s, %s, %s FROM %s%s%s ORDER BY %s LIMIT %d", KeyText(table),
                  Reference(table, kColumnAccessToken), Reference(table, kColumnRefreshToken), From(table),
                  has_cursor ? " WHERE " : "", has_cursor ? KeyBeyond(table, "$1") : "", KeyOrder(table), limit);
}

char* ResealSql(const TokenTable& table) {
  const char* access = Reference(table, kColumnAccessToken);
  const char* refresh = Reference(table, kColumnRefreshToken);
  return psprintf("UPDATE %s SET %s = _new.access, %s = _new.refresh FROM unnest($1, $2, $3, $4, $5)"
                  " AS _new(key, old_access, old_refresh, access, refresh) WHERE %s"
                  " AND %s IS NOT DISTINCT FROM _new.old_access AND %s IS NOT DISTINCT FROM _new.old_refresh",
                  From(table), Quoted(table, kColumnAccessToken), Quoted(table, kColumnRefreshToken),
                  KeyMatch(table, "_new.key"), access, refresh);
}

bool ReadTime(const TokenTable& table, TokenColumn column, Datum value, bool is_null, TimestampTz* time) {
  *time = 0;
  if (is_null) return false;
  switch (table.columns[column].kind) {
    case ColumnKind::kTimestamp:
      *time = DatumGetTimestampTz(
          DirectFunctionCall2(timestamp_zone, CStringGetTextDatum(table.time_zone), value));
      return true;
    case ColumnKind::kEpoch: {
      Oid output;
      bool is_varlena;
      getTypeOutputInfo(table.columns[column].type_oid, &output, &is_varlena);
      const char* seconds = OidOutputFunctionCall(output, value);
      *time = DatumGetTimestampTz(
          DirectFunctionCall1(float8_timestamptz, DirectFunctionCall1(float8in, CStringGetDatum(seconds))));
      return true;
    }
    default:
      *time = DatumGetTimestampTz(value);
      return true;
  }
}

namespace {

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

}  // namespace

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
