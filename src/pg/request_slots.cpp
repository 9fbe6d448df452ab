// The requests of waiting client sessions. Slots in use are listed in an array, so that a
// look-up costs what is in use; the others form a queue, so that a finished slot keeps its
// result for as long as possible. A waiter knows its request by slot and sequence number
// and holds nothing: a session that gives up leaves no trace that anybody must remove.
#include <cstring>

#include "core/refresher.h"
#include "pg/postgres_api.h"
#include "pg/settings.h"
#include "pg/shared_memory.h"
#include "pg/shared_state.h"

namespace token_refresh {
namespace {

enum class SlotState : uint8_t {
  kFree,     // never used yet
  kWaiting,  // for a refresher to take it
  kTaken,
  kDone,  // result is set; in the queue of idle slots
};

struct RequestSlot {
  Oid database;
  SlotState state;
  DemandResult result;
  int active_index;  // kWaiting, kTaken: where active[] names this slot
  int next_idle;     // kFree, kDone: the slot to be reused after this one, -1: the last
  RequestSubject subject;
  int64_t seen_generation;
  uint32_t payload;
  uint64_t sequence;         // of the request in the slot
  TimestampTz wanted_until;  // nobody waits for it any more after this
  ConditionVariable changed;
};

struct RequestTable {
  int slot_count;
  int active_count;
  int idle_head, idle_tail;  // -1: empty
  uint64_t last_sequence;
};

// The memory: RequestTable, then the slots, then the array of active slots' numbers.
RequestTable* table = nullptr;
RequestSlot* slots = nullptr;
int* active = nullptr;

void SetPointers(void* memory, int slot_count) {
  char* start = static_cast<char*>(memory);
  table = reinterpret_cast<RequestTable*>(start);
  slots = reinterpret_cast<RequestSlot*>(start + MAXALIGN(sizeof(RequestTable)));
  active = reinterpret_cast<int*>(slots + slot_count);
}

// The functions below expect that the caller holds the lock exclusively.

void AppendIdle(int index) {
  slots[index].next_idle = -1;
  if (table->idle_tail >= 0) {
    slots[table->idle_tail].next_idle = index;
  } else {
    table->idle_head = index;
  }
  table->idle_tail = index;
}

int TakeOldestIdle() {
  const int index = table->idle_head;
  if (index < 0) return -1;
  table->idle_head = slots[index].next_idle;
  if (table->idle_head < 0) table->idle_tail = -1;
  return index;
}

void AddActive(int index) {
  slots[index].active_index = table->active_count;
  active[table->active_count++] = index;
}

void RemoveActive(int index) {
  const int hole = slots[index].active_index;
  const int last = active[--table->active_count];
  active[hole] = last;
  slots[last].active_index = hole;
}

void EndRequest(int index, DemandResult result) {
  RequestSlot& slot = slots[index];
  slot.result = result;
  slot.state = SlotState::kDone;
  RemoveActive(index);
  AppendIdle(index);
}

// The condition variable outlives every request in its slot, so that waking the waiters
// of a slot that is in use again does no more than make them look.
void WakeWaiters(int index) { ConditionVariableBroadcast(&slots[index].changed); }

int FindActive(Oid database, RequestSubject subject) {
  for (int i = 0; i < table->active_count; ++i) {
    const RequestSlot& slot = slots[active[i]];
    if (slot.subject == subject && slot.database == database) return active[i];
  }
  return -1;
}

// Requests that nobody waits for any more, and that no refresher took in time, or whose payload was their session's
// own: nobody else is going to ask for those. A refresher that has taken one finds it gone when it is finished.
void EndAbandoned(TimestampTz now) {
  for (int i = table->active_count - 1; i >= 0; --i) {
    const RequestSlot& slot = slots[active[i]];
    const bool abandoned = (slot.state == SlotState::kWaiting || slot.payload != 0) && slot.wanted_until < now;
    if (abandoned) EndRequest(active[i], DemandResult::kShuttingDown);
  }
}

int MakeRequest(Oid database, RequestSubject subject, uint32_t payload, TimestampTz now) {
  if (table->idle_head < 0) EndAbandoned(now);
  const int index = TakeOldestIdle();
  if (index < 0) return -1;
  RequestSlot& slot = slots[index];
  slot.database = database;
  slot.subject = subject;
  slot.seen_generation = 0;
  slot.payload = payload;
  slot.sequence = ++table->last_sequence;
  slot.state = SlotState::kWaiting;
  slot.wanted_until = now;
  AddActive(index);
  return index;
}

}  // namespace

Size RequestSlotsSize() {
  const Size slot_size = add_size(sizeof(RequestSlot), sizeof(int));
  return add_size(MAXALIGN(sizeof(RequestTable)), mul_size(Settings::request_slots, slot_size));
}

void InitRequestSlots(void* memory) {
  memset(memory, 0, RequestSlotsSize());
  SetPointers(memory, Settings::request_slots);
  table->slot_count = Settings::request_slots;
  table->idle_head = table->idle_tail = -1;
  for (int i = 0; i < table->slot_count; ++i) {
    ConditionVariableInit(&slots[i].changed);
    AppendIdle(i);
  }
}

void AttachRequestSlots(void* memory) { SetPointers(memory, static_cast<RequestTable*>(memory)->slot_count); }

void EndRequestsLocked(Oid database, bool taken_only) {
  for (int i = table->active_count - 1; i >= 0; --i) {
    const int index = active[i];
    if (slots[index].database != database) continue;
    if (taken_only && slots[index].state != SlotState::kTaken) continue;
    EndRequest(index, DemandResult::kShuttingDown);
    WakeWaiters(index);
  }
}

int TakeRequests(Oid database, PendingRequest* out, int max) {
  const TimestampTz now = GetCurrentTimestamp();
  return WithSharedLock(LW_EXCLUSIVE, [&] {
    EndAbandoned(now);
    int count = 0;
    for (int i = 0; i < table->active_count && count < max; ++i) {
      RequestSlot& slot = slots[active[i]];
      if (slot.database != database || slot.state != SlotState::kWaiting) continue;
      slot.state = SlotState::kTaken;
      out[count++] = {slot.subject, slot.seen_generation, slot.payload};
    }
    return count;
  });
}

void FinishRequest(Oid database, RequestSubject subject, DemandResult result) {
  const int index = WithSharedLock(LW_EXCLUSIVE, [&] {
    const int found = FindActive(database, subject);
    if (found < 0 || slots[found].state != SlotState::kTaken) return -1;
    EndRequest(found, result);
    return found;
  });
  if (index >= 0) WakeWaiters(index);
}

bool EnterRequest(Oid database, RequestSubject subject, int64_t seen_generation, RequestTicket* ticket,
                  uint32_t payload) {
  const TimestampTz now = GetCurrentTimestamp();
  const TimestampTz wanted_until = TimestampTzPlusMilliseconds(now, Settings::request_timeout_ms);
  bool waiting = false;
  const int index = WithSharedLock(LW_EXCLUSIVE, [&] {
    int found = FindActive(database, subject);
    if (found < 0) found = MakeRequest(database, subject, payload, now);
    if (found < 0) return -1;
    RequestSlot& slot = slots[found];
    waiting = slot.state == SlotState::kWaiting;
    // Before the refresher takes it, the request asks for something newer than anyone has seen.
    if (waiting) slot.seen_generation = Max(slot.seen_generation, seen_generation);
    slot.wanted_until = Max(slot.wanted_until, wanted_until);
    *ticket = {found, slot.sequence};
    return found;
  });
  if (waiting) WakeRefresher(database);
  return index >= 0;
}

bool AwaitRequest(const RequestTicket& ticket, int64_t timeout_ms, DemandResult* result) {
  const TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
  RequestSlot& slot = slots[ticket.slot];
  bool finished = false;
  ConditionVariablePrepareToSleep(&slot.changed);
  while (true) {
    finished = WithSharedLock(LW_EXCLUSIVE, [&] {
      const bool ours = slot.sequence == ticket.sequence;
      if (ours && slot.state != SlotState::kDone) {
        slot.wanted_until = Max(slot.wanted_until, deadline);
        return false;
      }
      *result = ours ? slot.result : DemandResult::kAlreadyRefreshed;
      return true;
    });
    const long remaining = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
    if (finished || remaining <= 0) break;
    ConditionVariableTimedSleep(&slot.changed, remaining, PG_WAIT_EXTENSION);
  }
  ConditionVariableCancelSleep();
  return finished;
}

}  // namespace token_refresh
