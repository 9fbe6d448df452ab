// What comes beside the tokens that were asked for (secondary_tokens), in the transaction that saves or parks those:
// each credential is written in a subtransaction of its own, and what its row does not take is parked. Connected to
// SPI; may raise for what is wrong with the extension itself.
//
// What has a row that can be compared, with a refresh token, is parked as if it had been asked for itself. The rest is
// parked under its name (token_table 0), and tried again by RetryParkedByName.
#pragma once

#include "pg/save_arrays.h"

namespace token_refresh {

// Of each of these answers. An attached table has no rows for them. existing_only: no new credential comes of them.
void StoreSecondary(const SaveWork& work, const Picked& rows, bool existing_only = false);

// What is parked under its name and due for that, as far as half a second goes. What was parked before the process
// began at started_at may come out of a dump, and waits for the rest of it.
void RetryParkedByName(TimestampTz now, TimestampTz started_at);

}  // namespace token_refresh
