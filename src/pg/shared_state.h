// What the processes of one cluster share: which databases have a refresher, and
// the requests of waiting sessions. Only ids, times and result codes lie here, and handles of sealed
// payloads (sealed_request.h): never a token, and no pointers that mean something to one process alone.
// Everything is guarded by one LWLock that is held for a few instructions.
//
// Callable by anyone after SharedStateAvailable(); without shared_preload_libraries there
// is none.
#pragma once

#include <cstdint>

#include "core/refresher.h"
#include "pg/postgres_api.h"

namespace token_refresh {

constexpr int kMaxDatabases = 128;

// Life of a refresher, per database.
enum class RefresherPhase : uint8_t {
  kUnknown,       // nobody has looked yet whether the database has the extension
  kStarting,      // the launcher has asked the postmaster for a worker
  kRunning,
  kNotInstalled,  // the database has no such extension
  kExcluded,      // token_refresh.databases leaves it out, or it is a template, or nobody may connect
  kHeld,          // stopped for a command on the database itself (DROP, RENAME, TEMPLATE)
};

struct DatabaseEntry {
  Oid database;                // InvalidOid: a free entry
  RefresherPhase phase;
  int refresher_procno;        // index into ProcGlobal->allProcs, -1: none
  pid_t refresher_pid;
  bool news;                   // somebody wants the refresher to look; taken by TakeNews
  bool stop_requested;         // the refresher is to leave at once
  bool look_again;             // the extension may have come while a refresher was starting or leaving
  int holders;                 // phase kHeld: commands under way that hold it
  TimestampTz held_until;      // phase kHeld: the launcher leaves it alone until then
  TimestampTz next_look_at;    // when the refresher looks at the schedule by itself
  TimestampTz use_noted_at;    // since when notes on the use of API tokens wait for the refresher; 0: there are none
  int64 requests, refreshed, failed;  // counters since the refresher started
};

// Called from _PG_init while shared libraries are preloaded.
void InstallSharedStateHooks();
bool SharedStateAvailable();

// Launcher ------------------------------------------------------------------
void RegisterLauncher();  // this process is the launcher now
bool LauncherRunning();
void WakeLauncher();
// A copy of the entry; false when the database has none.
bool GetDatabaseEntry(Oid database, DatabaseEntry* out);
// Sets the phase, making an entry when there is none. False when all entries are taken.
// kUnknown lets a refresher that still runs go on (kRunning); kExcluded asks it to leave.
bool SetDatabasePhase(Oid database, RefresherPhase phase);
// The same, only if the phase is still from: others may have changed it meanwhile.
bool MoveDatabasePhase(Oid database, RefresherPhase from, RefresherPhase to);
void ForgetDatabase(Oid database);
// Copies up to max entries; returns how many.
int ListDatabaseEntries(DatabaseEntry* out, int max);

// Refresher -----------------------------------------------------------------
// False when another process is registered for the database already, or when it was
// asked to leave before it began: the caller then exits.
bool RegisterRefresher(Oid database);
// phase_after: kUnknown after a normal stop, kNotInstalled when there is no extension (which
// may be called without RegisterRefresher before). Does not raise: for before_shmem_exit.
// Requests it had taken end with kShuttingDown; those not taken yet wait for its successor.
void DeregisterRefresher(Oid database, RefresherPhase phase_after);
bool RefresherStopRequested(Oid database);
// Whether somebody has woken the refresher since the last call.
bool TakeNews(Oid database);
// Says DT_NOEND before looking at the schedule, and the time of the next look after it:
// then no commit in between is missed, for WakeRefresherFor sets the latch.
void AdvertiseNextLook(Oid database, TimestampTz next_look_at);
// Since when notes on the use of API tokens wait; 0: there are none. ForgetUseNoted before they are taken.
TimestampTz UseNotedAt(Oid database);
void ForgetUseNoted(Oid database);
void AdvertiseCounters(Oid database, const RefresherCounters& counters);

// What a request is about.
enum class RequestKind : uint8_t {
  kRefresh,         // id: of a schedule row
  kRotateApiToken,  // id: of an API token, whose successor is wanted
  kRevokeApiToken,  // id: of an API token that was presented after its grace period
  kRevokeSession,   // id, rest_of_id: of a session whose refresh token was (session_desk.h)
  // With a sealed payload (sealed_request.h); id: its own, never used twice.
  kCompleteAuthorization,
  kDiscover,
};
struct RequestSubject {
  RequestKind kind;
  int64_t id;
  int64_t rest_of_id = 0;  // of an id of 16 bytes
  bool operator==(const RequestSubject&) const = default;
};

struct PendingRequest {
  RequestSubject subject;
  int64_t seen_generation;  // of kRefresh
  uint32_t payload;         // handle of a dynamic shared memory segment; 0: none
};
// Moves up to max waiting requests of the database to the state "taken"; returns how many.
int TakeRequests(Oid database, PendingRequest* out, int max);
void FinishRequest(Oid database, RequestSubject subject, DemandResult result);

// Anyone --------------------------------------------------------------------
void WakeRefresher(Oid database);
// Wakes it only if it would sleep beyond due_at.
void WakeRefresherFor(Oid database, TimestampTz due_at);
// Somebody has noted that an API token was used. False when the database is not known yet.
bool NoteUseOf(Oid database, TimestampTz now);
// The extension has just come to the database, or is in use there: if no refresher
// serves it, the launcher has a look.
void LookForExtension(Oid database);
// Asks the refresher of the database to leave, and keeps the launcher from starting another
// until ReleaseDatabase, or until hold_milliseconds have passed. False, and no hold, when the
// database has none and would not get one.
bool HoldDatabase(Oid database, int hold_milliseconds);
void ReleaseDatabase(Oid database);
// Waits until the database has no refresher. False on timeout. Raises on cancel or terminate.
bool WaitUntilRefresherLeft(Oid database, int timeout_ms);

// Requests of client sessions -------------------------------------------------
struct RequestTicket {
  int slot;
  uint64_t sequence;
};
// Joins the request for this subject if one is under way, else enters a new one and
// wakes the refresher. False when all request slots are taken. payload: of a new request.
bool EnterRequest(Oid database, RequestSubject subject, int64_t seen_generation, RequestTicket* ticket,
                  uint32_t payload = 0);
// Waits until the request is finished. False on timeout. Raises on cancel or terminate; a
// request that nobody waits for any more needs no cleaning up, it ends by itself.
// A result that was overwritten meanwhile by a later request is kAlreadyRefreshed: read the row.
bool AwaitRequest(const RequestTicket& ticket, int64_t timeout_ms, DemandResult* result);

}  // namespace token_refresh
