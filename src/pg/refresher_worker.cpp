// The refresher: one background worker per database, the only process that talks to
// providers. One loop with one wait (refresher_wait). All decisions are the engine's
// (core/refresher), all SQL is the store's (pg/store).
#include "pg/refresher_worker.h"

#include "pg/settings.h"
#include "pg/table_scope.h"
#include "pg/workers.h"

namespace token_refresh {

namespace {

constexpr int kRequestsPerTurn = 256;
// How long a refresher drains when a command on its database waits for it to leave: what is stored then, and the
// end of the process, fit into the time that the command waits (database_ddl.cpp).
constexpr Micros kDrainForCommand = 3 * kSecond / 2;
// Between attempts to note which answers the last refresher may have lost.
constexpr Micros kRecoverAgain = kSecond;

RefresherPhase phase_after_exit = RefresherPhase::kUnknown;

void DeregisterAtExit(int, Datum database) {
  DeregisterRefresher(DatumGetObjectId(database), phase_after_exit);
}

void SweepIfDue(Worker* worker) {
  Step([&] {
    const Micros now = worker->clock.Now();
    if (worker->drain_until != 0 || now < worker->store->NextSweepAt()) return Ok();
    // One step a turn, so that a big table keeps nobody waiting.
    if (!worker->store->SweepStep(now)) worker->engine->ScheduleChanged();
    // COMMIT PREPARED has woken nobody.
    worker->desks->LookAgain();
    return Ok();
  });
}

// Tried again until it succeeds: who holds a lock for long must not make a lost answer look like the user's doing.
void RecoverIfDue(Worker* worker) {
  Step([&] {
    if (worker->recover_at == 0 || worker->drain_until != 0 || worker->clock.Now() < worker->recover_at) return Ok();
    const bool recovered = worker->store->Recover().ok();
    worker->recover_at = recovered ? 0 : worker->clock.Now() + kRecoverAgain;
    worker->engine->ScheduleChanged();
    return Ok();
  });
}

void TakeDemands(Worker* worker) {
  PendingRequest pending[kRequestsPerTurn];
  int count;
  do {
    count = TakeRequests(worker->database, pending, kRequestsPerTurn);
    Step([&] {
      for (int i = 0; i < count; i++) {
        const RequestSubject& subject = pending[i].subject;
        if (subject.kind == RequestKind::kRefresh)
          worker->engine->RequestNow(subject.id, pending[i].seen_generation);
        else
          worker->desks->Take(pending[i]);
      }
      return Ok();
    });
  } while (count == kRequestsPerTurn);
}

void ServeDesks(Worker* worker) {
  Step([&] {
    worker->desks->Serve(worker->clock.Now());
    return Ok();
  });
}

// Before anything is begun in the background, as what is due may be a lot.
void AllowBackground(Worker* worker) {
  bool background = Settings::enabled && !worker->store->Paused();
  if (background == worker->settings.background) return;
  worker->settings.background = background;
  worker->engine->Configure(worker->settings);
}

void Turn(Worker* worker) {
  Step([&] {
    AllowBackground(worker);
    worker->engine->Turn();
    for (const FinishedDemand& finished : worker->engine->TakeFinished())
      FinishRequest(worker->database, {RequestKind::kRefresh, finished.schedule_id}, finished.result);
    AdvertiseCounters(worker->database, worker->engine->counters());
    worker->board.Show(worker->database, worker->engine->BusyProviders(), worker->store->unusable_providers());
    return Ok();
  });
}

void BeginDrainIfAsked(Worker* worker) {
  bool command = RefresherStopRequested(worker->database);
  const bool hurry = command && !worker->hurrying;
  if (!hurry && (worker->drain_until != 0 || !ShutdownRequestPending)) return;
  Step([&] {
    const Micros patience = Settings::drain_timeout_ms * kMillisecond;
    const Micros until = worker->clock.Now() + (command ? Min(patience, kDrainForCommand) : patience);
    if (worker->drain_until == 0) {
      worker->engine->BeginDrain();
      worker->desks->BeginDrain();
    }
    worker->drain_until = worker->drain_until == 0 ? until : Min(worker->drain_until, until);
    worker->hurrying = command;
    return Ok();
  });
}

void LeaveIfDrained(Worker* worker) {
  if (worker->drain_until == 0) return;
  size_t unfinished = 0;
  Step([&] {
    unfinished = worker->engine->unfinished() + worker->desks->unfinished();
    return Ok();
  });
  if (unfinished != 0 && worker->clock.Now() < worker->drain_until) return;
  if (unfinished != 0)
    ereport(LOG, (errmsg("token_refresh refresher: leaves with %zu answers outstanding", unfinished),
                  errdetail("What was not answered, or could not be stored, is asked again when it is back; sign-ins are to be "
                            "begun again.")));
  Step([&] {
    worker->desks->Leave();
    return Ok();
  });
  Leave(RefresherPhase::kUnknown);
}

void Run(Worker* worker) {
  for (;;) {
    BeginDrainIfAsked(worker);
    RecoverIfDue(worker);
    SweepIfDue(worker);
    KeepPromiseToLook(worker);
    TakeDemands(worker);
    ServeDesks(worker);
    Turn(worker);
    LeaveIfDrained(worker);
    FlushClaims(worker);
    Wait(worker);
  }
}

}  // namespace

bool ExtensionPresent(Worker* worker) {
  bool present = false;
  Step([&] {
    present = worker->store->ExtensionPresent();
    return Ok();
  });
  return present;
}

[[noreturn]] void Leave(RefresherPhase phase) {
  phase_after_exit = phase;
  proc_exit(0);
}

}  // namespace token_refresh

extern "C" void token_refresh_refresher_main(Datum main_arg) {
  using namespace token_refresh;
  Oid database = DatumGetObjectId(main_arg);
  pqsignal(SIGHUP, SignalHandlerForConfigReload);
  pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
  BackgroundWorkerUnblockSignals();
  BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
  if (!RegisterRefresher(database)) proc_exit(0);
  before_shmem_exit(DeregisterAtExit, ObjectIdGetDatum(database));
  SetSessionDefaults();
  LimitTableScopes();
  Worker* worker = MakeWorker(database);
  if (!ExtensionPresent(worker)) Leave(RefresherPhase::kNotInstalled);
  Run(worker);
}
