// The refresher: one background worker per database, the only process that talks to
// providers. One loop with one wait: for its latch (a session wants something, the schedule has
// changed, a signal came) and for the transport's descriptor. All decisions are the engine's
// (core/refresher), all SQL is the store's (pg/store).
#include <sys/resource.h>

#include <memory>

#include "core/curl_transport.h"
#include "core/refresher.h"
#include "pg/boundary.h"
#include "pg/desks.h"
#include "pg/provider_board.h"
#include "pg/provider_cache.h"
#include "pg/settings.h"
#include "pg/shared_state.h"
#include "pg/store.h"
#include "pg/table_scope.h"
#include "pg/workers.h"

extern "C" {
#include "common/pg_prng.h"
}

namespace token_refresh {

namespace {

// File descriptors that PostgreSQL itself may want in this process.
constexpr int kReservedDescriptors = 256;
constexpr int kMostInFlight = 10000;
constexpr int kRequestsPerTurn = 256;
// While there is work, the schedule is looked at no more often than this for rows that sessions have
// just made due; what falls due sooner than that wakes the refresher.
constexpr Micros kShortestLook = 50 * kMillisecond;
// Before a wait longer than this, in milliseconds, the statistics are brought up to date.
constexpr long kReportBeforeSleeping = 1000;
// How long a refresher drains when a command on its database waits for it to leave: what is stored then, and the
// end of the process, fit into the time that the command waits (database_ddl.cpp).
constexpr Micros kDrainForCommand = 3 * kSecond / 2;
// Between attempts to note which answers the last refresher may have lost.
constexpr Micros kRecoverAgain = kSecond;

// So long may the note of what was just claimed stay in memory: the next save writes it to disk as well.
constexpr Micros kClaimFlushDelay = 10 * kMillisecond;

class WallClock final : public Clock {
 public:
  Micros Now() const override { return FromTimestamp(GetCurrentTimestamp()); }
};

// What the worker owns. Allocated once and never freed: the process ends by proc_exit, which
// runs no destructors of this frame.
struct Worker {
  Oid database = InvalidOid;
  WallClock clock;
  std::unique_ptr<PgStore> store;
  std::unique_ptr<CurlTransport> transport;
  std::unique_ptr<Desks> desks;
  std::unique_ptr<Refresher> engine;
  ProviderBoard board;
  RefresherSettings settings;
  Micros recover_at = 1;   // when to look for lost answers; 0: that is done
  Micros look_at = 0;      // sessions rely on the schedule being looked at by then; 0: on nothing
  Micros drain_until = 0;  // 0: not draining
  bool hurrying = false;   // draining while a command on the database waits
  XLogRecPtr unflushed = InvalidXLogRecPtr;  // the end of a commit that did not wait for the disk
  Micros flush_at = 0;                       // 0: nothing is unflushed
  WaitEventSet* wait_set = nullptr;
};

RefresherPhase phase_after_exit = RefresherPhase::kUnknown;

void DeregisterAtExit(int, Datum database) {
  DeregisterRefresher(DatumGetObjectId(database), phase_after_exit);
}

// Raises the limit of open files as far as the system allows; returns how many requests may be in
// flight in all.
int TotalInFlight() {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return kReservedDescriptors;
  rlim_t wanted = static_cast<rlim_t>(kMostInFlight + kReservedDescriptors);
  rlim_t reachable = limit.rlim_max == RLIM_INFINITY ? wanted : Min(wanted, limit.rlim_max);
  if (limit.rlim_cur < reachable) {
    limit.rlim_cur = reachable;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0 && getrlimit(RLIMIT_NOFILE, &limit) != 0) return kReservedDescriptors;
  }
  return Max(16, static_cast<int>(Min(limit.rlim_cur, wanted)) - kReservedDescriptors);
}

// Statements are short and set-based: plans that walk an index for each element of an array, and no
// long wait for a lock.
void SetSessionDefaults() {
  struct {
    const char *name, *value;
  } defaults[] = {{"search_path", "pg_catalog, pg_temp"},   {"lock_timeout", "100ms"},
                  {"statement_timeout", "0"},               {"idle_in_transaction_session_timeout", "0"},
                  {"default_transaction_isolation", "read committed"}, {"default_transaction_read_only", "off"},
                  {"enable_hashjoin", "off"},               {"enable_mergejoin", "off"},
                  {"enable_seqscan", "off"},                {"max_parallel_workers_per_gather", "0"},
                  {"jit", "off"},                           {"application_name", kRefresherName}};
  for (const auto& setting : defaults)
    SetConfigOption(setting.name, setting.value, PGC_SUSET, PGC_S_OVERRIDE);
}

void Configure(Worker* worker) {
  RefresherSettings& settings = worker->settings;
  settings.max_in_flight = Settings::max_in_flight;
  settings.refresh_margin = static_cast<Micros>(Settings::refresh_margin_s) * kSecond;
  settings.http.connect_timeout = Settings::connect_timeout_ms * kMillisecond;
  settings.http.timeout = Settings::http_timeout_ms * kMillisecond;
  settings.http.ca_file = Settings::ca_file != nullptr ? Settings::ca_file : "";
  settings.http.allow_insecure_http = Settings::allow_insecure_http;
  worker->engine->Configure(settings);
  worker->desks->Configure(settings.http);
}

// A C++ step of the worker; what it throws ends the worker, and the launcher starts another.
template <class F>
void Step(F&& f) {
  PlainError error;
  if (CallCpp(error, std::forward<F>(f))) return;
  ereport(FATAL, (errcode(error.sqlstate), errmsg("token_refresh refresher: %s", error.message)));
}

Worker* MakeWorker(Oid database) {
  Worker* worker = nullptr;
  int total = TotalInFlight();
  uint64_t seed = pg_prng_uint64(&pg_global_prng_state);
  Step([&]() -> Status {
    worker = new Worker;
    worker->database = database;
    worker->store = std::make_unique<PgStore>();
    CurlTransport::Options options;
    options.max_connections = static_cast<size_t>(total);
    Result<std::unique_ptr<CurlTransport>> transport = CurlTransport::Create(options);
    if (!transport.ok()) return transport.error();
    worker->transport = std::move(*transport);
    worker->settings.max_in_flight_total = total;
    worker->desks = std::make_unique<Desks>(database, *worker->store, *worker->transport, worker->clock);
    worker->engine = std::make_unique<Refresher>(*worker->store, worker->desks->engine_channel(), worker->clock, seed);
    Configure(worker);
    return Ok();
  });
  if (total < Settings::max_in_flight)
    ereport(LOG, (errmsg("token_refresh refresher: only %d requests can be in flight, fewer than "
                         "token_refresh.max_in_flight", total),
                  errhint("Raise the limit of open files (ulimit -n) for the server.")));
  worker->wait_set = MakeWaitEventSet(TopMemoryContext, 3);
  AddWaitEventToSet(worker->wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, nullptr);
  AddWaitEventToSet(worker->wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, nullptr, nullptr);
  AddWaitEventToSet(worker->wait_set, WL_SOCKET_READABLE, worker->transport->descriptor(), nullptr, nullptr);
  return worker;
}

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
    worker->board.Show(worker->database, worker->engine->BusyProviders());
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

// A COMMIT that makes something due wakes the refresher only if that is earlier than the advertised
// time. So until the schedule has been read every COMMIT must wake it, and at the advertised time it must
// really be read, whatever the engine itself has in mind then.
void KeepPromiseToLook(Worker* worker) {
  AdvertiseNextLook(worker->database, DT_NOEND);
  if (worker->look_at == 0 || worker->clock.Now() < worker->look_at) return;
  worker->look_at = 0;
  Step([&] {
    worker->engine->ScheduleChanged();
    return Ok();
  });
}

void PromiseToLook(Worker* worker, Micros now, Micros at) {
  Micros promised = Max(at, now + kShortestLook);
  if (worker->look_at == 0 || promised < worker->look_at) worker->look_at = promised;
  AdvertiseNextLook(worker->database, ToTimestamp(promised));
}

// Claims are committed without waiting for the disk. When no save comes along that flushes them too, they are
// flushed while the providers think: after a crash only what is on disk is known to have been asked.
void FlushClaims(Worker* worker) {
  const Micros now = worker->clock.Now();
  if (worker->flush_at != 0 && now >= worker->flush_at && XLogNeedsFlush(worker->unflushed)) XLogFlush(XactLastCommitEnd);
  if (worker->flush_at != 0 && XLogNeedsFlush(worker->unflushed)) return;
  const bool pending = XactLastCommitEnd != InvalidXLogRecPtr && XLogNeedsFlush(XactLastCommitEnd);
  worker->unflushed = XactLastCommitEnd;
  worker->flush_at = pending ? now + kClaimFlushDelay : 0;
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
