// Token tables whose own code (triggers, filters, policies, cipher functions) uses more than its
// share of the refresher's time: left alone for a while, longer each time, so that they cannot hold up the
// refreshing of the others. In the refresher's memory. Does not raise.
#pragma once

#include <cstdint>

#include "core/clock.h"

namespace token_refresh {

// Until when the table is to be left alone; what wants it must do without. 0: it need not be.
Micros SuspendedUntil(int32_t token_table, Micros now);
inline bool IsSuspended(int32_t token_table, Micros now) { return SuspendedUntil(token_table, now) > 0; }

// After each access to the table, however it has ended: how long it took.
void NoteTableTime(int32_t token_table, Micros now, Micros took);

constexpr const char* kSuspendedMessage =
    "the table is left alone for a while, because its own triggers or functions have taken too long";

}  // namespace token_refresh
