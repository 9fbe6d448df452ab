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
  Oid type_oid;              // of the column
  const char* equals;        // the operator, qualified
  const char* greater_than;  // the operator, qualified
};

// The statuses that a table may show, in the order of kStatusWords.
enum TokenStatus { kConnected, kTokenExpired, kNeedsReauth, kError, kDisconnected, kTokenStatuses };
extern const char* const kStatusWords[kTokenStatuses];

struct TokenTableStatements;

struct TokenTable {
  MemoryContext context;  // holds everything here
  int32_t id;
  Oid relation;
  Oid owner;
  bool built_in;
  bool detached;          // no longer in token_table; what is in flight may still be stored
  // Why the table cannot be used as it is; null: it can. Column names in it are quoted, nothing else is.
  const char* trouble;
  // Another transaction holds the whole table locked, so that nothing else is known of it now. In the refresher only.
  bool locked;
  const char* quoted_name;  // schema-qualified, ready for SQL
  const char* alias;        // its name alone, quoted
  const char* place;        // what its ciphertexts are bound to
  int key_count;
  KeyColumn keys[INDEX_MAX_KEYS];
  bool key_text_varies;     // its text depends on settings such as DateStyle
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
  TokenTable* next;
};

inline bool Has(const TokenTable& table, TokenColumn column) { return table.columns[column].name != nullptr; }

// Raises undefined_object when there is and was none. Valid until the end of the transaction.
TokenTable* GetTokenTable(int32_t id);

// What this process knows already, without looking. Null: nothing. Does not raise.
const TokenTable* KnownTokenTable(int32_t id);

// The id of the table that relation is attached as; 0: it is not.
int32_t TokenTableOf(Oid relation);

// The status that the table's own text stands for; what it does not know counts as connected.
TokenStatus StatusOf(const TokenTable& table, const char* text);

}  // namespace token_refresh
