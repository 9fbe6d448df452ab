// Attached token tables: which column of which table is what. Plain data, cached per
// process, read again when token_table changes. May raise. Caller is connected to SPI with the
// owner's rights.
#pragma once

#include <cstdint>

#include "pg/postgres_api.h"

namespace token_refresh {

// The words of token_table.columns.
enum TokenColumn {
  kColumnKey,
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
  kColumnRefreshedAt,
  kColumnUpdatedAt,
  kTokenColumns,
};

struct TokenTable {
  int32_t id;
  Oid relation;
  char quoted_name[2 * NAMEDATALEN * 2 + 8];  // schema-qualified, ready for SQL
  char place[2 * NAMEDATALEN + 8];            // what its ciphertexts are bound to
  char columns[kTokenColumns][NAMEDATALEN];   // empty: the table has no such column
  Oid key_type;
};

// Raises undefined_object when there is none. Valid until the next call.
const TokenTable* GetTokenTable(int32_t id);

}  // namespace token_refresh
