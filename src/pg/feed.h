// Keeps schedule in step with the token tables. When an application writes tokens, a
// trigger computes when they fall due, writes the row of schedule and, at COMMIT, wakes
// the refresher if that is earlier than it knew. Used by the trigger, by the sweep (through
// SQL) and by alter_provider. The writes of the refresher itself are not news to it.
#pragma once

#include "pg/postgres_api.h"

namespace token_refresh {

// While on, the trigger ignores what this process writes; for the refresher always, and for
// rotate_keys() until the end of its transaction.
void SetOwnWrites(bool on);

}  // namespace token_refresh
