// Rows of authorization_request and discovery for the sessions that wait for them: read as they are committed,
// whatever the isolation level. May raise; what is returned is palloc'd.
#pragma once

#include <cstdint>

#include "pg/postgres_api.h"

namespace token_refresh {

// The row of a state; by its SHA-256. Not yet committed ones count, too: own_write says that this is one.
struct AuthorizationKey {
  int64_t id;
  char* provider;
  bool own_write;
};
bool FindAuthorization(bytea* state_hash, AuthorizationKey* key);

// What has become of it.
struct AuthorizationResult {
  bool used;
  int64_t taken_by;  // id of the request that has used the state; 0: none
  bool ended;        // the following is there
  char* provider;
  char *failure, *message;  // null: it went well
  int64_t credential_id;
  char* owner;
  Datum claims;  // jsonb
};
bool FetchAuthorizationResult(int64_t id, AuthorizationResult* result);

struct DiscoveryAnswer {
  bool found;
  Datum options;  // jsonb; if found
  char* message;  // if not
};
bool FetchDiscoveryAnswer(int64_t id, DiscoveryAnswer* answer);

}  // namespace token_refresh
