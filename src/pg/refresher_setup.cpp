// What the refresher does before its first turn, and its settings.
#include <sys/resource.h>

#include "pg/refresher_worker.h"
#include "pg/settings.h"
#include "pg/workers.h"

extern "C" {
#include "common/pg_prng.h"
}

namespace token_refresh {

namespace {

// File descriptors that PostgreSQL itself may want in this process.
constexpr int kReservedDescriptors = 256;
constexpr int kMostInFlight = 10000;

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

}  // namespace

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

}  // namespace token_refresh
