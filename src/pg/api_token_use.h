// When API tokens are used: noted in shared memory by whoever validates one, which costs no write and works in a
// read-only transaction, and written to api_token_use by the refresher. What a crash of the server takes with it is
// what was noted since the last flush; more different tokens in one interval than
// token_refresh.api_token_use_slots are not noted at all. Without shared memory nothing is.
#pragma once

#include <cstdint>

#include "pg/postgres_api.h"

namespace token_refresh {

struct ApiTokenUse {
  int64_t token_id;
  int64_t count;
  TimestampTz last_used_at;
};

// Does not raise. Nothing on a standby.
void NoteApiTokenUse(int64_t token_id);

// For the refresher: takes out at most max notes of its database.
int TakeApiTokenUse(Oid database, ApiTokenUse* out, int max);
// Puts back what could not be written.
void ReturnApiTokenUse(Oid database, const ApiTokenUse& use);

// For shared_memory.cpp.
Size ApiTokenUseSize();
void InitApiTokenUse(void* memory);
void AttachApiTokenUse(void* memory, LWLock* (*lock)(int partition));
constexpr int kApiTokenUsePartitions = 16;

}  // namespace token_refresh
