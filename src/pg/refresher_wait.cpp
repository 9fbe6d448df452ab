// How the refresher waits: one wait, for its latch (a session wants something, the schedule has changed, a signal came)
// and for the transport's descriptor; for how long, and what sessions may rely on meanwhile.
#include "pg/provider_cache.h"
#include "pg/refresher_worker.h"
#include "pg/settings.h"

namespace token_refresh {

namespace {

// While there is work, the schedule is looked at no more often than this for rows that sessions have
// just made due; what falls due sooner than that wakes the refresher.
constexpr Micros kShortestLook = 50 * kMillisecond;
// Before a wait longer than this, in milliseconds, the statistics are brought up to date.
constexpr long kReportBeforeSleeping = 1000;
// So long may the note of what was just claimed stay in memory: the next save writes it to disk as well.
constexpr Micros kClaimFlushDelay = 10 * kMillisecond;

void PromiseToLook(Worker* worker, Micros now, Micros at) {
  Micros promised = Max(at, now + kShortestLook);
  if (worker->look_at == 0 || promised < worker->look_at) worker->look_at = promised;
  AdvertiseNextLook(worker->database, ToTimestamp(promised));
}

// Milliseconds until there is something to do even if nothing happens.
long WaitTime(Worker* worker) {
  Micros now = worker->clock.Now();
  Micros wake_at = 0;
  std::optional<Micros> transport;
  Step([&] {
    wake_at = worker->drain_until != 0 ? worker->drain_until : worker->store->NextSweepAt();
    if (worker->drain_until == 0 && worker->recover_at != 0) wake_at = Min(wake_at, worker->recover_at);
    wake_at = Min(wake_at, worker->desks->NextAt());
    std::optional<Micros> turn_at = worker->engine->NextTurnAt();
    if (turn_at) wake_at = Min(wake_at, *turn_at);
    transport = worker->transport->NextTimeout();
    return Ok();
  });
  PromiseToLook(worker, now, wake_at);
  wake_at = Min(wake_at, worker->look_at);
  if (worker->flush_at != 0) wake_at = Min(wake_at, worker->flush_at);
  if (transport) wake_at = Min(wake_at, now + *transport);
  Micros wait = wake_at - worker->clock.Now();
  if (wait <= 0) return 0;
  return static_cast<long>(Min((wait + kMillisecond - 1) / kMillisecond, static_cast<Micros>(INT_MAX)));
}

}  // namespace

void KeepPromiseToLook(Worker* worker) {
  AdvertiseNextLook(worker->database, DT_NOEND);
  if (worker->look_at == 0 || worker->clock.Now() < worker->look_at) return;
  worker->look_at = 0;
  Step([&] {
    worker->engine->ScheduleChanged();
    return Ok();
  });
}

void FlushClaims(Worker* worker) {
  const Micros now = worker->clock.Now();
  if (worker->flush_at != 0 && now >= worker->flush_at && XLogNeedsFlush(worker->unflushed)) XLogFlush(XactLastCommitEnd);
  if (worker->flush_at != 0 && XLogNeedsFlush(worker->unflushed)) return;
  const bool pending = XactLastCommitEnd != InvalidXLogRecPtr && XLogNeedsFlush(XactLastCommitEnd);
  worker->unflushed = XactLastCommitEnd;
  worker->flush_at = pending ? now + kClaimFlushDelay : 0;
}

void Wait(Worker* worker) {
  WaitEvent events[3];
  // What arrived while a transaction waited for a lock or a standby has lost its latch.
  bool latch = TakeNews(worker->database) || ConfigReloadPending || (ShutdownRequestPending && worker->drain_until == 0);
  long timeout = latch ? 0 : WaitTime(worker);
  if (timeout > kReportBeforeSleeping) pgstat_report_stat(true);
  int count = WaitEventSetWait(worker->wait_set, timeout, events, lengthof(events), PG_WAIT_EXTENSION);
  for (int i = 0; i < count; i++) latch = latch || (events[i].events & WL_LATCH_SET) != 0;
  // Cancelling makes sense for a statement, and there is none now; the lock timeout arrives the same way.
  QueryCancelPending = false;
  CHECK_FOR_INTERRUPTS();
  if (!latch) return;
  ResetLatch(MyLatch);
  TakeNews(worker->database);
  if (ConfigReloadPending) {
    ConfigReloadPending = false;
    ProcessConfigFile(PGC_SIGHUP);
    ForgetProviders();
    Step([&] {
      Configure(worker);
      return Ok();
    });
  }
  if (!ExtensionPresent(worker)) Leave(RefresherPhase::kNotInstalled);
  Step([&] {
    worker->engine->ScheduleChanged();
    worker->desks->LookAgain();
    return Ok();
  });
}

}  // namespace token_refresh
