#include "pg/table_sql.h"

#include "pg/table_key_sql.h"
#include "pg/table_time.h"

extern "C" {
#include "lib/stringinfo.h"
}

namespace token_refresh {

namespace {

const char* Quoted(const TokenTable& table, TokenColumn column) { return table.columns[column].quoted; }

const char* Reference(const TokenTable& table, TokenColumn column) { return table.columns[column].reference; }

// The table goes by the name that its filter knows, so nothing else here may have it.
const char* From(const TokenTable& table) { return psprintf("%s AS %s", table.quoted_name, table.alias); }

const char* TextOr(const TokenTable& table, TokenColumn column, const char* otherwise) {
  return Has(table, column) ? AsText(Reference(table, column), table.columns[column].type_oid) : otherwise;
}

// What is read stays in memory until its batch is done.
constexpr int kMostTokenBytes = 64 * 1024;

const char* Cut(const char* text) { return psprintf("pg_catalog.left(%s, %d)", text, kMostCharacters); }

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

// A token in a form that compares with what was loaded.
const char* StoredToken(const TokenTable& table, TokenColumn column) {
  const char* stored = Reference(table, column);
  return table.columns[column].kind == ColumnKind::kBytea ? stored : psprintf("%s::text", stored);
}

const char* StoredRefreshToken(const TokenTable& table) { return StoredToken(table, kColumnRefreshToken); }

const char* IsTooLong(const char* token) {
  return psprintf("(coalesce(pg_catalog.octet_length(%s), 0) > %d)", token, kMostTokenBytes);
}

const char* HasToken(const char* stored) { return psprintf("(%s IS NOT NULL AND %s <> '')", stored, stored); }

const char* Encrypted(const TokenTable& table, TokenColumn column, const char* expression) {
  const char* type = table.columns[column].type;
  if (table.cipher != TableCipher::kFunctions) return psprintf("%s::%s", expression, type);
  // The types decide which function of that name is meant.
  return psprintf("%s(%s::text, %s::text)::%s", table.encrypt_function, expression, Subject(table), type);
}

// A token as the decrypt function opens it.
const char* Decrypted(const TokenTable& table, TokenColumn column) {
  const bool bytes = table.columns[column].kind == ColumnKind::kBytea;
  const char* opened = psprintf("%s(%s::%s, %s::text)::text", table.decrypt_function, Reference(table, column),
                                bytes ? "bytea" : "text", Subject(table));
  return psprintf("(SELECT CASE WHEN NOT %s THEN _opened.token END FROM (SELECT %s AS token OFFSET 0) AS _opened)",
                  IsTooLong("_opened.token"), opened);
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

// The next rows beyond the cursor $1, in the order of the key.
const char* NextKeys(const TokenTable& table, bool has_cursor, int limit) {
  return psprintf("%s%s ORDER BY %s LIMIT %d", has_cursor ? " WHERE " : "", has_cursor ? KeyBeyond(table, "$1") : "",
                  KeyOrder(table), limit);
}

// A token as it is stored, and as the decrypt function opens it, where a condition holds and it can be read.
struct LoadedToken {
  const char *stored, *opened;
};

LoadedToken Loaded(const TokenTable& table, TokenColumn column, const char* condition) {
  const char* stored = StoredToken(table, column);
  const char* readable = psprintf("%s AND %s AND NOT %s", condition, HasToken(stored), IsTooLong(stored));
  return {psprintf("CASE WHEN %s THEN %s END", readable, stored),
          table.cipher != TableCipher::kFunctions
              ? "NULL::text"
              : psprintf("CASE WHEN %s THEN %s END", readable, Decrypted(table, column))};
}

// What the sweep wants to know of a row.
const char* Scanned(const TokenTable& table) {
  return psprintf("SELECT %s, %s, %s, %s, %s, %s, %s, %s, %s, %s FROM %s", KeyText(table), Cut(ProviderName(table)),
                  Cut(Subject(table)), Cut(Label(table)), HasToken(StoredRefreshToken(table)),
                  Cut(TextOr(table, kColumnStatus, "NULL::text")),
                  TimeFrom(table, kColumnIssuedAt), TimeFrom(table, kColumnExpiresAt),
                  TimeFrom(table, kColumnRefreshExpiresAt), FilterHolds(table), From(table));
}

}  // namespace

Oid StoredArrayType(const TokenTable& table) {
  return table.columns[kColumnRefreshToken].kind == ColumnKind::kBytea ? BYTEAARRAYOID : TEXTARRAYOID;
}

Oid NewTokenArrayType(const TokenTable& table) {
  return table.cipher == TableCipher::kFunctions ? static_cast<Oid>(TEXTARRAYOID) : StoredArrayType(table);
}

char* LoadSql(const TokenTable& table) {
  const LoadedToken refresh = Loaded(table, kColumnRefreshToken, "true");
  const LoadedToken access = Loaded(table, kColumnAccessToken, "_new._token_refresh_access");
  // The filter may name columns without their table: these have names that no column of it has.
  return psprintf("SELECT _new._token_refresh_n, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s"
                  " FROM unnest($1, $2, $3) AS _new(_token_refresh_n, _token_refresh_key, _token_refresh_access)"
                  " JOIN %s ON %s",
                  Cut(Subject(table)), Cut(Label(table)), refresh.stored, refresh.opened, FilterHolds(table),
                  Cut(TextOr(table, kColumnStatus, "NULL::text")), IsTooLong(StoredRefreshToken(table)),
                  TextOr(table, kColumnCaptured, "NULL::text"), access.stored, access.opened,
                  TextOr(table, kColumnClientId, "NULL::text"),
                  Has(table, kColumnClientSecret) ? Reference(table, kColumnClientSecret) : "NULL::bytea",
                  TimeFrom(table, kColumnRefreshExpiresAt), From(table), KeyMatch(table, "_new._token_refresh_key"));
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
  if (Has(table, kColumnCaptured))
    AppendText(&sql, table, kColumnCaptured, psprintf("coalesce(_new.captured, %s::text)", Reference(table, kColumnCaptured)));
  AppendTime(&sql, table, kColumnIssuedAt, "_new.issued_at");
  AppendTime(&sql, table, kColumnExpiresAt, "_new.expires_at");
  AppendRefreshExpiry(&sql, table);
  AppendConnected(&sql, table);
  AppendText(&sql, table, kColumnLastError, "NULL");
  AppendWord(&sql, table, kColumnResult, table.result_success);
  AppendTime(&sql, table, kColumnRefreshedAt, "_new.issued_at");
  AppendTime(&sql, table, kColumnUpdatedAt, "_new.issued_at");
  appendStringInfo(&sql, " FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) AS _new(n, key, old, access, refresh,"
                   " token_type, scope, issued_at, expires_at, refresh_expires_at, captured) WHERE %s AND %s = _new.old"
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

char* LearnSql(const TokenTable& table) {
  StringInfoData sql;
  initStringInfo(&sql);
  // An UPDATE, and so a row lock, for tables without a column for the expiry as well.
  appendStringInfo(&sql, "UPDATE %s SET %s = %s", From(table), Quoted(table, kColumnRefreshToken),
                   Reference(table, kColumnRefreshToken));
  AppendTime(&sql, table, kColumnExpiresAt, "_new.expires_at");
  AppendTime(&sql, table, kColumnUpdatedAt, "pg_catalog.now()");
  appendStringInfo(&sql, " FROM unnest($1, $2, $3, $4) AS _new(n, key, old, expires_at) WHERE %s AND %s = _new.old"
                   " RETURNING _new.n", KeyMatch(table, "_new.key"), StoredRefreshToken(table));
  return sql.data;
}

char* ScanSql(const TokenTable& table, bool has_cursor, int limit) {
  return psprintf("%s%s", Scanned(table), NextKeys(table, has_cursor, limit));
}

char* ScanRowSql(const TokenTable& table) {
  return psprintf("%s WHERE %s", Scanned(table), KeyMatch(table, "$1"));
}

char* ScanKeysSql(const TokenTable& table, bool has_cursor, int limit) {
  return psprintf("SELECT %s FROM %s%s", KeyText(table), From(table), NextKeys(table, has_cursor, limit));
}

char* ExistingSql(const TokenTable& table) {
  return psprintf("SELECT _new.n FROM unnest($1, $2) AS _new(n, key) JOIN %s ON %s", From(table),
                  KeyMatch(table, "_new.key"));
}

char* StoredSql(const TokenTable& table) {
  return psprintf("SELECT _new.n, %s, %s FROM unnest($1, $2) AS _new(n, key) JOIN %s ON %s",
                  Reference(table, kColumnRefreshToken), Reference(table, kColumnAccessToken), From(table),
                  KeyMatch(table, "_new.key"));
}

char* ReadSql(const TokenTable& table) {
  const bool bytes = table.columns[kColumnAccessToken].kind == ColumnKind::kBytea;
  return psprintf("SELECT %s, %s, %s, %s%s, %s, %s, %s FROM %s WHERE %s", KeyText(table), ProviderName(table),
                  table.cipher == TableCipher::kFunctions ? Subject(table) : "NULL::text",
                  Reference(table, kColumnAccessToken), bytes ? "" : "::text",
                  TextOr(table, kColumnStatus, "NULL::text"), TimeFrom(table, kColumnIssuedAt),
                  TimeFrom(table, kColumnExpiresAt), From(table), KeyMatchForReader(table, "$1"));
}

char* SealedSql(const TokenTable& table, bool has_cursor, int limit) {
  return psprintf("SELECT %s, %s, %s FROM %s%s", KeyText(table), Reference(table, kColumnAccessToken),
                  Reference(table, kColumnRefreshToken), From(table), NextKeys(table, has_cursor, limit));
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

}  // namespace token_refresh
