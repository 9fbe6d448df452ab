// Rows of api_token, read without SQL: by the hash of the token, which is what a validation costs, or by id. No
// privileges are checked: whoever presents a token may know what it is good for. May raise; everything returned is
// palloc'd plain data.
#pragma once

#include <cstdint>

#include "pg/postgres_api.h"

namespace token_refresh {

// The table part of the place that a sealed successor is bound to; the row is the id of the token that it succeeds.
constexpr const char* kApiTokenPlace = "token_refresh.api_token";
constexpr const char* kSuccessorColumn = "successor";

struct ApiTokenRow {
  int64_t id;
  int64_t family;
  TimestampTz expires_at;
  bool revoked;
  bool handed_over;  // its successor; retires_at is set
  TimestampTz retires_at;
  int64_t successor_id;  // 0: none
  Interval* lifetime;
  ArrayType* scope;
  bytea* user_hk;    // may be null
  bytea* tenant_hk;  // may be null
  bytea* successor;  // sealed; may be null
  bool written_by_this_transaction;
};

// hash: a bytea of 32 bytes. fresh: as it is committed now, else as the statement sees it.
bool FetchApiToken(bytea* hash, bool fresh, ApiTokenRow* row);
// As it is committed now.
bool FetchApiTokenById(int64_t id, ApiTokenRow* row);

}  // namespace token_refresh
