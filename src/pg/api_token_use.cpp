#include "pg/api_token_use.h"

#include <climits>
#include <cstring>

#include "pg/settings.h"
#include "pg/shared_state.h"

extern "C" {
#include "common/hashfn.h"
#include "port/atomics.h"
}

namespace token_refresh {

namespace {

struct Note {
  Oid database;  // InvalidOid: free
  uint32_t count;
  int64_t token_id;
  TimestampTz last_used_at;
};

// Partitions of equal size follow, each under a lock of its own.
struct UseTable {
  pg_atomic_uint32 takes;  // how often a refresher has begun to take notes
  int notes_of_partition;
};

// A note lies within so many places from where it belongs.
constexpr int kProbes = 8;

UseTable* table = nullptr;
Note* notes = nullptr;
LWLock* (*partition_lock)(int) = nullptr;

int NotesOfPartition() { return Max(Settings::api_token_use_slots / kApiTokenUsePartitions, kProbes); }

// Whoever should have taken it is not there: its database has no refresher, or is gone.
bool IsForgotten(const Note& note, TimestampTz now) {
  const int64_t patience_ms = 5000 * static_cast<int64_t>(Settings::api_token_use_interval_s);
  return TimestampDifferenceExceeds(note.last_used_at, now, static_cast<int>(Min(patience_ms, INT_MAX)));
}

// The place of the token's note, or one that is free or forgotten; null: there is neither. The caller holds the lock.
Note* FindPlace(int partition, uint32_t hash, Oid database, const ApiTokenUse& use) {
  Note* start = notes + static_cast<size_t>(partition) * table->notes_of_partition;
  Note* free = nullptr;
  for (int i = 0; i < kProbes; i++) {
    Note* note = start + (hash + i) % table->notes_of_partition;
    if (note->database == database && note->token_id == use.token_id) return note;
    if (free == nullptr && (!OidIsValid(note->database) || IsForgotten(*note, use.last_used_at))) free = note;
  }
  if (free != nullptr) *free = {};
  return free;
}

// Whether the token had no note before.
bool Add(Oid database, const ApiTokenUse& use) {
  const uint32_t hash = murmurhash32(static_cast<uint32_t>(use.token_id) ^ database ^
                                     static_cast<uint32_t>(static_cast<uint64_t>(use.token_id) >> 32));
  const int partition = static_cast<int>(hash >> 28);
  static_assert(kApiTokenUsePartitions == 16, "a partition is four bits of the hash");
  LWLockAcquire(partition_lock(partition), LW_EXCLUSIVE);
  Note* note = FindPlace(partition, hash & 0x0fffffff, database, use);
  const bool is_new = note != nullptr && !OidIsValid(note->database);
  if (is_new) *note = {database, 0, use.token_id, 0};
  if (note != nullptr) {
    note->count += static_cast<uint32_t>(use.count);
    note->last_used_at = Max(note->last_used_at, use.last_used_at);
  }
  LWLockRelease(partition_lock(partition));
  return is_new;
}

// A refresher that has begun to take notes since it was told last may have missed this one.
void TellRefresher(Oid database, TimestampTz now) {
  static uint32_t told_at = 0;
  static bool told = false;
  const uint32_t takes = pg_atomic_read_u32(&table->takes);
  if (told && told_at == takes) return;
  told = NoteUseOf(database, now);
  told_at = takes;
}

}  // namespace

void NoteApiTokenUse(int64_t token_id) {
  if (table == nullptr || RecoveryInProgress()) return;
  const TimestampTz now = GetCurrentTimestamp();
  if (Add(MyDatabaseId, {token_id, 1, now})) TellRefresher(MyDatabaseId, now);
}

int TakeApiTokenUse(Oid database, ApiTokenUse* out, int max) {
  int count = 0;
  pg_atomic_fetch_add_u32(&table->takes, 1);
  for (int partition = 0; partition < kApiTokenUsePartitions && count < max; partition++) {
    Note* start = notes + static_cast<size_t>(partition) * table->notes_of_partition;
    LWLockAcquire(partition_lock(partition), LW_EXCLUSIVE);
    for (Note* note = start; note < start + table->notes_of_partition && count < max; note++) {
      if (note->database != database) continue;
      out[count++] = {note->token_id, note->count, note->last_used_at};
      *note = {};
    }
    LWLockRelease(partition_lock(partition));
  }
  return count;
}

void ReturnApiTokenUse(Oid database, const ApiTokenUse& use) { Add(database, use); }

Size ApiTokenUseSize() {
  return add_size(MAXALIGN(sizeof(UseTable)), mul_size(sizeof(Note), NotesOfPartition() * kApiTokenUsePartitions));
}

void InitApiTokenUse(void* memory) {
  memset(memory, 0, ApiTokenUseSize());
  UseTable* fresh = static_cast<UseTable*>(memory);
  pg_atomic_init_u32(&fresh->takes, 0);
  fresh->notes_of_partition = NotesOfPartition();
}

void AttachApiTokenUse(void* memory, LWLock* (*lock)(int partition)) {
  table = static_cast<UseTable*>(memory);
  notes = reinterpret_cast<Note*>(static_cast<char*>(memory) + MAXALIGN(sizeof(UseTable)));
  partition_lock = lock;
}

}  // namespace token_refresh
