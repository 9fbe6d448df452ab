// What sessions and a running refresher tell each other by way of the entry of their database: that there is something
// to look at, when it is going to look by itself, that API tokens have been used, what it has counted.
#include "pg/shared_memory.h"
#include "pg/shared_state.h"

namespace token_refresh {

void WakeRefresher(Oid database) { WakeRefresherFor(database, DT_NOBEGIN); }

void WakeRefresherFor(Oid database, TimestampTz due_at) {
  const bool served = WithSharedLock(LW_EXCLUSIVE, [&] {
    DatabaseEntry* entry = FindLocked(database);
    if (entry == nullptr || entry->refresher_pid == 0) return false;
    if (due_at < entry->next_look_at) TellRefresherLocked(entry);
    return true;
  });
  // Whoever asks for a refresher has the extension, even if the launcher missed how it came
  // (by COMMIT PREPARED, for instance).
  if (!served) LookForExtension(database);
}

bool TakeNews(Oid database) {
  return WithSharedLock(LW_EXCLUSIVE, [&] {
    DatabaseEntry* entry = FindLocked(database);
    const bool news = entry != nullptr && entry->news;
    if (news) entry->news = false;
    return news;
  });
}

void AdvertiseNextLook(Oid database, TimestampTz next_look_at) {
  WithSharedLock(LW_EXCLUSIVE, [&] {
    DatabaseEntry* entry = FindLocked(database);
    if (entry != nullptr) entry->next_look_at = next_look_at;
  });
}

TimestampTz UseNotedAt(Oid database) {
  return WithSharedLock(LW_SHARED, [&] {
    const DatabaseEntry* entry = FindLocked(database);
    return entry != nullptr ? entry->use_noted_at : 0;
  });
}

void ForgetUseNoted(Oid database) {
  WithSharedLock(LW_EXCLUSIVE, [&] {
    DatabaseEntry* entry = FindLocked(database);
    if (entry != nullptr) entry->use_noted_at = 0;
  });
}

bool NoteUseOf(Oid database, TimestampTz now) {
  return WithSharedLock(LW_EXCLUSIVE, [&] {
    DatabaseEntry* entry = FindLocked(database);
    if (entry == nullptr || entry->use_noted_at != 0) return entry != nullptr;
    entry->use_noted_at = now;
    TellRefresherLocked(entry);
    return true;
  });
}

void AdvertiseCounters(Oid database, const RefresherCounters& counters) {
  WithSharedLock(LW_EXCLUSIVE, [&] {
    DatabaseEntry* entry = FindLocked(database);
    if (entry == nullptr) return;
    entry->requests = static_cast<int64>(counters.requests);
    entry->refreshed = static_cast<int64>(counters.refreshed);
    entry->failed = static_cast<int64>(counters.failed);
  });
}

}  // namespace token_refresh
