// The keys that sign and check this database's JWTs, opened once per process and forgotten when signing_key changes
// in any session (relcache invalidation, which reaches standbys too); what is forgotten is wiped. For the SQL
// functions; may raise. No privileges are checked.
#pragma once

#include "core/jwk.h"
#include "core/jws_key.h"
#include "pg/postgres_api.h"

namespace token_refresh {

// The table part of the place that a sealed key is bound to; the row is its kid.
constexpr const char* kSigningKeyPlace = "token_refresh.signing_key";
constexpr const char* kSigningKeyColumn = "key";

// Those whose signatures are good now. A public key needs no key of the ring. A secret of HS256 that does not open
// is left out, the log says so once, and it is tried again a second later. Valid until the next call into PostgreSQL.
const JwkSet* VerificationKeys();

// Another number each time that the keys have been read: those of the last call of VerificationKeys.
uint64 VerificationKeysVersion();

// The newest that is not retired. Raises object_not_in_prerequisite_state when there is none, and what LoadKeyRing
// and Open say when it does not open. Valid until the next call into PostgreSQL.
const SigningKey* NewestSigningKey();

}  // namespace token_refresh
