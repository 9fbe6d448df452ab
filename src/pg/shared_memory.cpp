#include "pg/shared_memory.h"

#include <cstring>

#include "pg/api_token_use.h"
#include "pg/postgres_api.h"

namespace token_refresh {

SharedState* shared_state = nullptr;

namespace {

constexpr char kShmemName[] = "token_refresh";

LWLockPadded* locks = nullptr;  // ours, then those of the notes on API tokens
#if PG_VERSION_NUM >= 150000
shmem_request_hook_type previous_request_hook = nullptr;
#endif
shmem_startup_hook_type previous_startup_hook = nullptr;

Size SharedStateSize() {
  return add_size(add_size(MAXALIGN(sizeof(SharedState)), MAXALIGN(RequestSlotsSize())), ApiTokenUseSize());
}

LWLock* UseLock(int partition) { return &locks[1 + partition].lock; }

void RequestSharedMemory() {
#if PG_VERSION_NUM >= 150000
  if (previous_request_hook != nullptr) previous_request_hook();
#endif
  RequestAddinShmemSpace(SharedStateSize());
  RequestNamedLWLockTranche(kShmemName, 1 + kApiTokenUsePartitions);
}

// Runs in the postmaster, again after a crash has made it start over.
void StartSharedMemory() {
  if (previous_startup_hook != nullptr) previous_startup_hook();
  LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
  bool found = false;
  char* memory = static_cast<char*>(ShmemInitStruct(kShmemName, SharedStateSize(), &found));
  void* slots = memory + MAXALIGN(sizeof(SharedState));
  shared_state = reinterpret_cast<SharedState*>(memory);
  void* use = static_cast<char*>(slots) + MAXALIGN(RequestSlotsSize());
  locks = GetNamedLWLockTranche(kShmemName);
  if (!found) {
    memset(memory, 0, sizeof(SharedState));
    shared_state->launcher_procno = -1;
    ConditionVariableInit(&shared_state->refresher_left);
    InitRequestSlots(slots);
    InitApiTokenUse(use);
  }
  AttachRequestSlots(slots);
  AttachApiTokenUse(use, UseLock);
  LWLockRelease(AddinShmemInitLock);
}

}  // namespace

LWLock* SharedLock() { return &locks[0].lock; }

void InstallSharedStateHooks() {
#if PG_VERSION_NUM >= 150000
  previous_request_hook = shmem_request_hook;
  shmem_request_hook = RequestSharedMemory;
#else
  RequestSharedMemory();
#endif
  previous_startup_hook = shmem_startup_hook;
  shmem_startup_hook = StartSharedMemory;
}

bool SharedStateAvailable() { return shared_state != nullptr; }

}  // namespace token_refresh
