// Token tables whose own code (triggers, filters, policies, cipher functions) has used up its
// time: left alone for a while, longer each time, so that they cannot hold up the refreshing of
// the others. In the refresher's memory. Does not raise.
#pragma once

#include <cstdint>

#include "core/clock.h"

namespace token_refresh {

// Whether the table is to be left alone now; what wants it must do without.
bool IsSuspended(int32_t token_table, Micros now);
// After an access has ended by its time limit.
void Suspend(int32_t token_table, Micros now);
// After an access that went well.
void EndSuspension(int32_t token_table);

constexpr const char* kSuspendedMessage =
    "the table is left alone for a while, because its own triggers or functions have taken too long";

}  // namespace token_refresh
