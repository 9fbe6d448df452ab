// Keeps schedule in step with the token tables. When an application writes tokens, a
// trigger computes when they fall due (schedule_plan.h), writes the row of schedule and, at COMMIT, wakes
// the refresher if that is earlier than it knew. The writes of the refresher itself are not news to it.
#pragma once

#include <cstdint>

namespace token_refresh {

// What the refresher is about to write into this token table is no news to the schedule; 0: whatever is
// written is. What the table's own triggers write into other tables is news. Ends with the transaction at the latest.
void SetOwnWrites(int32_t token_table);

}  // namespace token_refresh
