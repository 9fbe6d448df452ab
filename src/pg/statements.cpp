#include "pg/statements.h"

#include "pg/provider_cache.h"

extern "C" {
#include "lib/stringinfo.h"
}

namespace token_refresh {

namespace {

constexpr int kMaxTokenTables = 64;

TokenTableStatements* made[kMaxTokenTables];
int made_count = 0;
uint64_t made_at_version = 0;

const char* Column(const TokenTable& table, TokenColumn column) { return quote_identifier(table.columns[column]); }

bool Has(const TokenTable& table, TokenColumn column) { return table.columns[column][0] != '\0'; }

// "t.key = k.key::type", so that the table's own index on its key serves.
void AppendKeyMatch(StringInfo sql, const TokenTable& table) {
  appendStringInfo(sql, "t.%s = k.key::%s", Column(table, kColumnKey), format_type_be(table.key_type));
}

void AppendSet(StringInfo sql, const TokenTable& table, TokenColumn column, const char* expression) {
  if (Has(table, column)) appendStringInfo(sql, ", %s = %s", Column(table, column), expression);
}

// Where what is null the column stays as it is.
void AppendSetUnlessNull(StringInfo sql, const TokenTable& table, TokenColumn column, const char* what,
                         const char* expression) {
  if (!Has(table, column)) return;
  appendStringInfo(sql, ", %s = CASE WHEN %s IS NULL THEN t.%s ELSE %s END", Column(table, column), what,
                   Column(table, column), expression);
}

char* LoadSql(const TokenTable& table) {
  StringInfoData sql;
  initStringInfo(&sql);
  appendStringInfo(&sql, "SELECT k.n, t.%s::text, ", Column(table, kColumnSubject));
  if (Has(table, kColumnLabel))
    appendStringInfo(&sql, "t.%s::text, ", Column(table, kColumnLabel));
  else
    appendStringInfoString(&sql, "''::text, ");
  appendStringInfo(&sql, "t.%s FROM unnest($1, $2) AS k(n, key) JOIN %s AS t ON ", Column(table, kColumnRefreshToken),
                   table.quoted_name);
  AppendKeyMatch(&sql, table);
  return sql.data;
}

char* SaveSql(const TokenTable& table) {
  StringInfoData sql;
  initStringInfo(&sql);
  appendStringInfo(&sql, "UPDATE %s AS t SET %s = k.access", table.quoted_name, Column(table, kColumnAccessToken));
  const char* refresh = Column(table, kColumnRefreshToken);
  appendStringInfo(&sql, ", %s = coalesce(k.refresh, t.%s)", refresh, refresh);
  AppendSet(&sql, table, kColumnTokenType, "k.token_type");
  if (Has(table, kColumnScope))
    appendStringInfo(&sql, ", %s = coalesce(k.scope, t.%s)", Column(table, kColumnScope), Column(table, kColumnScope));
  AppendSet(&sql, table, kColumnIssuedAt, "k.issued_at");
  AppendSet(&sql, table, kColumnExpiresAt, "k.expires_at");
  if (Has(table, kColumnRefreshExpiresAt))
    // Another refresh token has another deadline, or none.
    appendStringInfo(&sql, ", %s = CASE WHEN k.refresh IS NULL THEN coalesce(k.refresh_expires_at, t.%s)"
                     " ELSE k.refresh_expires_at END",
                     Column(table, kColumnRefreshExpiresAt), Column(table, kColumnRefreshExpiresAt));
  if (Has(table, kColumnStatus)) {
    // Only the application takes back that it has disconnected a credential.
    const char* status = Column(table, kColumnStatus);
    appendStringInfo(&sql, ", %s = CASE WHEN t.%s = 'disconnected' THEN t.%s ELSE 'connected' END", status, status, status);
  }
  AppendSet(&sql, table, kColumnLastError, "NULL");
  AppendSet(&sql, table, kColumnRefreshedAt, "k.issued_at");
  AppendSet(&sql, table, kColumnUpdatedAt, "k.issued_at");
  appendStringInfoString(&sql,
                         " FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS k(n, key, old, access, refresh,"
                         " token_type, scope, issued_at, expires_at, refresh_expires_at) WHERE ");
  AppendKeyMatch(&sql, table);
  appendStringInfo(&sql, " AND t.%s = k.old RETURNING k.n", refresh);
  return sql.data;
}

char* MarkSql(const TokenTable& table) {
  StringInfoData sql;
  initStringInfo(&sql);
  const char* refresh = Column(table, kColumnRefreshToken);
  // A failure brings a new status, or a new refresh token. Setting the refresh token to itself keeps this an
  // UPDATE, and so a row lock, for tables without a status column as well.
  appendStringInfo(&sql, "UPDATE %s AS t SET %s = coalesce(k.refresh, t.%s)", table.quoted_name, refresh, refresh);
  AppendSetUnlessNull(&sql, table, kColumnRefreshExpiresAt, "k.refresh", "k.refresh_expires_at");
  AppendSetUnlessNull(&sql, table, kColumnStatus, "k.status", "k.status");
  AppendSetUnlessNull(&sql, table, kColumnLastError, "k.status", "k.last_error");
  AppendSet(&sql, table, kColumnUpdatedAt, "now()");
  appendStringInfoString(&sql,
                         " FROM unnest($1, $2, $3, $4, $5, $6, $7)"
                         " AS k(n, key, old, refresh, refresh_expires_at, status, last_error) WHERE ");
  AppendKeyMatch(&sql, table);
  appendStringInfo(&sql, " AND t.%s = k.old", refresh);
  if (Has(table, kColumnStatus))
    appendStringInfo(&sql, " AND (k.refresh IS NOT NULL OR t.%s IS DISTINCT FROM 'disconnected')",
                     Column(table, kColumnStatus));
  appendStringInfoString(&sql, " RETURNING k.n");
  return sql.data;
}

void SetStatement(Statement* statement, const char* sql, int arguments, const Oid* types) {
  *statement = {};
  statement->sql = sql;
  statement->arguments = arguments;
  memcpy(statement->types, types, sizeof(Oid) * arguments);
}

void Make(TokenTableStatements* statements, const TokenTable& table) {
  const Oid load[] = {INT4ARRAYOID, TEXTARRAYOID};
  const Oid save[] = {INT4ARRAYOID,  TEXTARRAYOID,          BYTEAARRAYOID,         BYTEAARRAYOID,        BYTEAARRAYOID,
                      TEXTARRAYOID,  TEXTARRAYOID,          TIMESTAMPTZARRAYOID,   TIMESTAMPTZARRAYOID,  TIMESTAMPTZARRAYOID};
  const Oid mark[] = {INT4ARRAYOID,        TEXTARRAYOID, BYTEAARRAYOID, BYTEAARRAYOID,
                      TIMESTAMPTZARRAYOID, TEXTARRAYOID, TEXTARRAYOID};
  statements->table = table;
  SetStatement(&statements->load, LoadSql(table), lengthof(load), load);
  SetStatement(&statements->save, SaveSql(table), lengthof(save), save);
  SetStatement(&statements->mark, MarkSql(table), lengthof(mark), mark);
}

void Release(Statement* statement) {
  if (statement->plan != nullptr) SPI_freeplan(statement->plan);
  pfree(const_cast<char*>(statement->sql));
}

void ForgetOutdated() {
  if (made_at_version == ProviderCacheVersion()) return;
  for (int i = 0; i < made_count; i++) {
    Release(&made[i]->load);
    Release(&made[i]->save);
    Release(&made[i]->mark);
    pfree(made[i]);
  }
  made_count = 0;
  made_at_version = ProviderCacheVersion();
}

}  // namespace

uint64 Execute(Statement* statement, Datum* values, bool read_only) {
  if (statement->plan == nullptr) {
    SPIPlanPtr plan = SPI_prepare(statement->sql, statement->arguments, statement->types);
    if (plan == nullptr) elog(ERROR, "token_refresh: SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
    SPI_keepplan(plan);
    statement->plan = plan;
  }
  int result = SPI_execute_plan(statement->plan, values, nullptr, read_only, 0);
  if (result < 0) elog(ERROR, "token_refresh: a statement failed: %s", SPI_result_code_string(result));
  return SPI_processed;
}

TokenTableStatements* StatementsFor(int32_t token_table) {
  ForgetOutdated();
  for (int i = 0; i < made_count; i++)
    if (made[i]->table.id == token_table) return made[i];
  if (made_count == kMaxTokenTables) elog(ERROR, "token_refresh: more than %d token tables", kMaxTokenTables);
  const TokenTable* table = GetTokenTable(token_table);
  MemoryContext previous = MemoryContextSwitchTo(TopMemoryContext);
  TokenTableStatements* statements = static_cast<TokenTableStatements*>(palloc0(sizeof(TokenTableStatements)));
  Make(statements, *table);
  MemoryContextSwitchTo(previous);
  made[made_count++] = statements;
  return statements;
}

}  // namespace token_refresh
