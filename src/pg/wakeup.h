// Tells the workers at COMMIT what a transaction has changed, never earlier: before
// that they could not see it. Called by functions of client sessions; nothing happens
// on ROLLBACK, nor without shared memory.
#pragma once

#include "pg/postgres_api.h"

namespace token_refresh {

// Something falls due at due_at; of several calls in a transaction the earliest counts. One made
// in a subtransaction that is rolled back may wake the refresher for nothing. Nothing on
// PREPARE TRANSACTION: the refresher's sweep finds what COMMIT PREPARED brings.
void WakeRefresherAtCommit(TimestampTz due_at);

// pg_database has changed.
void WakeLauncherAtCommit();

// The extension has been created here, or settings in tables have changed.
void WakeAllAtCommit();

}  // namespace token_refresh
