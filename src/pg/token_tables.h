// Token tables: the built-in one and those attached by their owners. Says which column of
// which table is what, and how its tokens are encrypted. Plain data, cached per process, read
// again when token_table or the table itself changes. May raise. Caller is connected to SPI with
// the extension owner's rights.
#pragma once

#include <cstdint>

#include "core/table_options.h"
#include "pg/postgres_api.h"

namespace token_refresh {

// The words of token_table.columns.
enum TokenColumn {
  kColumnProvider,
  kColumnSubject,
  kColumnLabel,
  kColumnAccessToken,
  kColumnRefreshToken,
  kColumnTokenType,
  kColumnScope,
  kColumnCaptured,
  kColumnClientId,
  kColumnClientSecret,
  kColumnIssuedAt,
  kColumnExpiresAt,
  kColumnRefreshExpiresAt,
  kColumnStatus,
  kColumnLastError,
  kColumnResult,
  kColumnRefreshedAt,
  kColumnUpdatedAt,
  kTokenColumns,
};

// How the values of a column are read and written.
enum class ColumnKind {
  kAbsent,
  kText,         // has a text form: text, varchar, an enum, a uuid, a number
  kBytea,
  kTimestampTz,
  kTimestamp,    // read and written in the table's time zone
  kEpoch,        // a number of seconds since 1970
};

struct MappedColumn {
  const char* name;    // as in pg_attribute; null: the table has no such column
  const char* quoted;
  const char* reference;  // with the table's alias
  const char* type;       // for a cast; without a length, so that what is too long is refused, not cut
  const char* sized_type;
  Oid type_oid;
  ColumnKind kind;
};

struct KeyColumn {
  const char* name;
  const char* quoted;
  const char* reference;
  const char* type;          // for a cast; of a domain its base type, so that no constraint is evaluated
  const char* sized_type;    // with its length or precision, which shows in the text of some types
  Oid type_oid;              // of the column
  bool text_varies;          // its text depends on settings such as DateStyle
  const char* equals;        // the operator, qualified
  const char* greater_than;  // the operator, qualified
};

// The statuses that a table may show, in the order of kStatusWords.
enum TokenStatus { kConnected, kTokenExpired, kNeedsReauth, kError, kDisconnected, kTokenStatuses };
extern const char* const kStatusWords[kTokenStatuses];

struct TokenTableStatements;
struct Watched;  // what else than the table the names in a description depend on

// What the statements on a table call the rows that they bring with them (table_sql.cpp).
constexpr const char* kRowsAlias = "_new";

struct TokenTable {
  MemoryContext context;  // holds everything here
  int32_t id;
  Oid relation;
  Oid owner;
  bool owner_changed;     // since it was attached; one of the troubles
  bool built_in;
  bool hides_rows;        // row-level security holds for its owner as well, so a row that is not seen may be there
  // Why the table cannot be used as it is; null: it can. Column names in it are quoted, nothing else is.
  const char* trouble;
  // Another transaction holds the whole table locked, so that nothing else is known of it now. In the refresher only.
  bool locked;
  const char *schema, *name;
  const char* quoted_name;  // schema-qualified, ready for SQL
  const char* alias;        // its name alone when it was attached, quoted: what the filter calls it
  const char* place;        // what its ciphertexts are bound to
  int key_count;
  KeyColumn keys[INDEX_MAX_KEYS];
  bool key_text_varies;     // that of any of its columns
  MappedColumn columns[kTokenColumns];
  const char* provider;     // null: from the column
  const char* label;        // null: from the column
  const char* filter;       // null: none
  TableCipher cipher;
  const char* cipher_key;
  const char* decrypt_function;  // qualified and quoted
  const char* encrypt_function;
  const char* status_values[kTokenStatuses];  // null: that status is not written
  const char* result_success;
  const char* result_failure;
  const char* time_zone;
  bool has_trigger;
  Micros poll_interval;   // 0: the setting
  Micros refresh_margin;  // 0: the provider's, or the setting
  TimestampTz attached_at;
  TokenTableStatements* statements;  // made on first use (statements.h)
  uint64_t version;
  Watched* watched;
  TokenTable* next;
};

inline bool Has(const TokenTable& table, TokenColumn column) { return table.columns[column].name != nullptr; }

// Null when there is none (any more). Valid until the end of the transaction.
TokenTable* FindTokenTable(int32_t id);

// The same, but raises undefined_object.
TokenTable* GetTokenTable(int32_t id);

// For the refresher: keeps the table attached until the end of the transaction, without waiting. False: it is not, or
// is being detached.
bool HoldTokenTable(int32_t id);

// Locks the table for the rest of the transaction, and raises unless it is where and whose the description says:
// whoever gets it then cannot be made to run what somebody else has attached it with.
void LockTokenTable(const TokenTable& table);

// What this process knows already, without looking. Null: nothing. Does not raise.
const TokenTable* KnownTokenTable(int32_t id);

// The same, null also if that may have changed.
const TokenTable* CurrentTokenTable(int32_t id);

// The id of the table that relation is attached as; 0: it is not.
int32_t TokenTableOf(Oid relation);

// The status that the table's own text stands for; what it does not know counts as connected.
TokenStatus StatusOf(const TokenTable& table, const char* text);

}  // namespace token_refresh
