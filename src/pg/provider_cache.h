// What a session must know of a provider without asking SQL each time: when its
// tokens count as due. Filled on first use, forgotten when anything in the tables provider,
// token_table or control changes in any session (relcache invalidation, which reaches standbys too).
// May raise. No privileges are checked: nothing here is secret.
#pragma once

#include <cstdint>

#include "core/provider.h"
#include "pg/postgres_api.h"

namespace token_refresh {

struct KnownProvider {
  char name[NAMEDATALEN];
  int32_t id;
  bool enabled;
  RefreshTiming timing;
  bool has_dialect;  // what is stored for it is not always what RFC 6749 says
};

// Called from _PG_init.
void InstallProviderCache();

// Null when there is no such provider. Valid until the next call.
const KnownProvider* FindProvider(const char* name);

// Its effective options, as JSON; palloc'd. Null when there is no such provider.
const char* FetchProviderOptions(const char* name);

// Forgets everything, as settings or keys that providers depend on may be others now.
void ForgetProviders();

// Moves on with every change that may concern providers; for the refresher.
uint64_t ProviderCacheVersion();

// Whether it has moved on, as far as what this transaction has read may depend on it: whatever was committed, in
// its turn, before what has been read. May raise.
bool ProvidersChangedSince(uint64_t version);

}  // namespace token_refresh
