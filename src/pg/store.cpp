// The store's providers and due list; claims, saves, parked results and upkeep have files of
// their own.
#include "pg/store.h"

#include "core/sealed_box.h"
#include "pg/catalog.h"
#include "pg/keys.h"
#include "pg/provider_cache.h"
#include "pg/secondary_tokens.h"
#include "pg/settings.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"

namespace token_refresh {

namespace {

Statement select_providers = {
    "SELECT id, name, coalesce(client_id, ''), client_secret, effective_options::text, previous_client_secret"
    " FROM token_refresh.provider ORDER BY id",
    0,
    {},
    nullptr};

Statement select_paused = {"SELECT coalesce((SELECT paused FROM token_refresh.control), false)", 0, {}, nullptr};

// What is parked keeps to its own times, whatever the schedule says: somebody may have held that row locked when the
// tokens were parked.
Statement list_due = {
    "SELECT d.id, d.provider FROM unnest($1, $2) WITH ORDINALITY AS q(provider, quota, n),"
    " LATERAL (SELECT s.id, s.provider, s.due_at FROM token_refresh.schedule s"
    "   WHERE s.provider = q.provider AND s.due_at <= $3 AND NOT s.settling AND s.row_key IS NOT NULL"
    "   AND NOT EXISTS (SELECT FROM token_refresh.parked_result p WHERE p.schedule_id = s.id"
    "    AND p.retry_at > $3 AND (p.due_at <= $3) IS NOT TRUE)"
    "   ORDER BY s.due_at LIMIT q.quota) d"
    " UNION ALL SELECT s.id, s.provider FROM token_refresh.parked_result p JOIN token_refresh.schedule s"
    "   ON s.id = p.schedule_id AND s.row_key IS NOT NULL"
    "   WHERE p.retry_at <= $3 AND s.provider = ANY ($1) AND (s.due_at <= $3) IS NOT TRUE",
    3,
    {INT4ARRAYOID, INT4ARRAYOID, TIMESTAMPTZOID},
    nullptr};

Statement next_due = {
    "SELECT least((SELECT $2 + interval '1 second' FROM token_refresh.schedule f WHERE f.settling LIMIT 1),"
    " (SELECT min(t.at) FROM token_refresh.parked_result p, LATERAL (VALUES (p.due_at),"
    "   (CASE WHEN p.token_table = 0 THEN greatest(p.retry_at, $2 + interval '1 second') ELSE p.retry_at END)) AS t(at)"
    "   WHERE t.at > $2), min(d.due_at))"
    " FROM unnest($1) AS q(provider),"
    " LATERAL (SELECT s.due_at FROM token_refresh.schedule s"
    "   WHERE s.provider = q.provider AND s.due_at > $2 AND s.row_key IS NOT NULL ORDER BY s.due_at LIMIT 1) d",
    2,
    {INT4ARRAYOID, TIMESTAMPTZOID},
    nullptr};

// What rows have left behind whose transaction has deleted them and not brought them back.
Statement drop_deleted = {
    "WITH gone AS (DELETE FROM token_refresh.schedule WHERE id IN (SELECT s.id FROM token_refresh.schedule s"
    "  WHERE s.row_key IS NULL AND s.missed_at IS NULL LIMIT 10000 FOR UPDATE SKIP LOCKED) RETURNING id)"
    " DELETE FROM token_refresh.parked_result p USING gone WHERE p.schedule_id = gone.id",
    0,
    {},
    nullptr};

// Parked while the schedule was being emptied. What has been parked before this process began may be waiting for the
// rest of a dump, what was parked for a table before it was attached waits for its rows: that is left to the sweep,
// which looks at the table itself. What is parked for a table that has been detached waits for it to be attached. What
// is parked under a name goes with its provider.
Statement drop_orphans = {
    "DELETE FROM token_refresh.parked_result p WHERE p.retry_at <= $1 AND p.parked_at >= $2"
    " AND NOT EXISTS (SELECT FROM token_refresh.schedule s WHERE s.id = p.schedule_id)"
    " AND NOT EXISTS (SELECT FROM token_refresh.provider v WHERE p.token_table = 0 AND v.name = p.provider)"
    " AND NOT EXISTS (SELECT FROM token_refresh.token_table t WHERE t.id = p.token_table AND t.attached_at > p.parked_at)"
    " AND NOT EXISTS (SELECT FROM token_refresh.former_token_table f WHERE f.id = p.token_table)",
    2,
    {TIMESTAMPTZOID, TIMESTAMPTZOID},
    nullptr};

// What comes out of a dump is not due before what belongs to it has been restored as well. It has been committed
// by now, however long that took. So many at a time that nobody has to wait.
Statement settle = {
    "UPDATE token_refresh.schedule s SET settling = false, due_at = greatest(s.due_at, $1 + interval '1 minute')"
    " WHERE s.id IN (SELECT f.id FROM token_refresh.schedule f WHERE f.settling LIMIT 10000"
    " FOR NO KEY UPDATE SKIP LOCKED)",
    1,
    {TIMESTAMPTZOID},
    nullptr};

// A provider row in plain memory.
struct PlainProvider {
  int32_t id;
  char* name;
  char* client_id;
  bytea *client_secret, *previous_client_secret;  // sealed; may be null
  char* options;
};

struct PlainProviders {
  PlainProvider* rows;
  uint64 count;
};

void ReadProviders(MemoryContext context, PlainProviders* out) {
  bool is_null;
  out->count = Execute(&select_providers, nullptr, true);
  MemoryContext previous = MemoryContextSwitchTo(context);
  out->rows = static_cast<PlainProvider*>(palloc0(sizeof(PlainProvider) * (out->count + 1)));
  for (uint64 i = 0; i < out->count; i++) {
    HeapTuple tuple = SPI_tuptable->vals[i];
    TupleDesc desc = SPI_tuptable->tupdesc;
    PlainProvider* row = &out->rows[i];
    row->id = DatumGetInt32(SPI_getbinval(tuple, desc, 1, &is_null));
    row->name = TextDatumGetCString(SPI_getbinval(tuple, desc, 2, &is_null));
    row->client_id = TextDatumGetCString(SPI_getbinval(tuple, desc, 3, &is_null));
    Datum secret = SPI_getbinval(tuple, desc, 4, &is_null);
    row->client_secret = is_null ? nullptr : DatumGetByteaPCopy(secret);
    row->options = TextDatumGetCString(SPI_getbinval(tuple, desc, 5, &is_null));
    secret = SPI_getbinval(tuple, desc, 6, &is_null);
    row->previous_client_secret = is_null ? nullptr : DatumGetByteaPCopy(secret);
  }
  MemoryContextSwitchTo(previous);
}

// Both were sealed as the one in use. Null: empty.
Result<Secret> OpenClientSecret(int32_t provider, const bytea* sealed) {
  if (sealed == nullptr) return Secret();
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return ring.error();
  const std::string id = std::to_string(provider);
  return Open(**ring, SealedPlace{kProviderPlace, id, "client_secret"},
              {VARDATA_ANY(sealed), VARSIZE_ANY_EXHDR(sealed)});
}

Result<Provider> MakeProvider(const PlainProvider& row) {
  Provider provider;
  provider.id = row.id;
  provider.name = row.name;
  provider.client_id = row.client_id;
  Result<ProviderOptions> options = ParseProviderOptions(row.options, Settings::allow_insecure_http);
  if (!options.ok()) return options.error();
  provider.options = std::move(*options);
  Result<Secret> secret = OpenClientSecret(row.id, row.client_secret);
  if (!secret.ok()) return secret.error();
  provider.client_secret = std::move(*secret);
  // The other does without it.
  Result<Secret> previous = OpenClientSecret(row.id, row.previous_client_secret);
  if (previous.ok()) provider.previous_client_secret = std::move(*previous);
  return provider;
}

void ReportUnusable(const PlainProvider& row, const Error& error) {
  std::string message = std::string("provider \"") + row.name + "\" cannot be used: " + error.message;
  ReportToLog(WARNING, message.c_str(), error.hint.empty() ? nullptr : error.hint.c_str());
}

}  // namespace

PgStore::PgStore()
    : scratch_context_(AllocSetContextCreate(TopMemoryContext, "token_refresh store", ALLOCSET_DEFAULT_SIZES)) {}

Error PgStore::Complain(const char* doing, const PostgresError& error) {
  // The text may quote a row: only the code is passed on.
  std::string message = std::string(doing) + " failed with SQLSTATE " + unpack_sql_state(error.sqlstate);
  Micros now = FromTimestamp(GetCurrentTimestamp());
  if (now - last_complaint_at_ > kSecond) ReportToLog(WARNING, message.c_str());
  last_complaint_at_ = now;
  return Error{ErrorCode::kUnavailable, std::move(message), ""};
}

const std::string& PgStore::ProviderName(int32_t id) const {
  static const std::string unknown = "?";
  auto found = provider_names_.find(id);
  return found == provider_names_.end() ? unknown : found->second;
}

uint64_t PgStore::ProvidersVersion() { return ProviderCacheVersion(); }

Result<std::vector<std::shared_ptr<const Provider>>> PgStore::LoadProviders() {
  const uint64_t version = ProviderCacheVersion();
  if (providers_at_version_ == version) return providers_;
  MemoryContextReset(scratch_context_);
  PlainProviders plain = {};
  auto error = RunPostgres(kActivityClaim, [&] { ReadProviders(scratch_context_, &plain); });
  if (error) return Complain("reading providers", *error);
  provider_names_.clear();
  providers_.clear();
  unusable_providers_.clear();
  for (uint64 i = 0; i < plain.count; i++) {
    provider_names_[plain.rows[i].id] = plain.rows[i].name;
    Result<Provider> provider = MakeProvider(plain.rows[i]);
    if (provider.ok()) {
      providers_.push_back(std::make_shared<const Provider>(std::move(*provider)));
      continue;
    }
    unusable_providers_.push_back(plain.rows[i].id);
    ReportUnusable(plain.rows[i], provider.error());
  }
  providers_at_version_ = version;
  return providers_;
}

std::shared_ptr<const Provider> PgStore::FindProviderByName(const std::string& name) {
  if (!LoadProviders().ok()) return nullptr;
  for (const auto& provider : providers_)
    if (provider->name == name) return provider;
  return nullptr;
}

bool PgStore::Paused() {
  const uint64_t version = ProviderCacheVersion();
  if (paused_at_version_ == version) return paused_;
  bool paused = true;
  auto error = RunPostgres(kActivityClaim, [&] {
    Execute(&select_paused, nullptr, true);
    bool is_null;
    paused = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
  });
  if (error) return paused_;
  paused_at_version_ = version;
  paused_ = paused;
  return paused_;
}

Result<DueList> PgStore::ListDue(Micros now, std::span<const DueQuota> quotas) {
  DueList list;
  size_t room = 0;
  for (const DueQuota& quota : quotas) room += static_cast<size_t>(quota.limit);
  list.rows.resize(room);
  size_t count = 0;
  bool has_next = false;
  TimestampTz next = 0;
  auto error = RunPostgres(kActivityClaim, [&] {
    int n = static_cast<int>(quotas.size());
    Datum providers = MakeArray(n, INT4OID, [&](int i, bool*) { return Int32GetDatum(quotas[i].provider_id); });
    Datum limits = MakeArray(n, INT4OID, [&](int i, bool*) { return Int32GetDatum(quotas[i].limit); });
    Datum times[] = {TimestampTzGetDatum(ToTimestamp(now)), TimestampTzGetDatum(MyStartTimestamp)};
    Execute(&drop_deleted, nullptr, false);
    Execute(&drop_orphans, times, false);
    Execute(&settle, times, false);
    RetryParkedByName(ToTimestamp(now), MyStartTimestamp);
    Datum due_values[] = {providers, limits, TimestampTzGetDatum(ToTimestamp(now))};
    uint64 found = Execute(&list_due, due_values, false);
    bool is_null;
    for (uint64 i = 0; i < found && count < room; i++, count++) {
      HeapTuple tuple = SPI_tuptable->vals[i];
      list.rows[count].schedule_id = DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &is_null));
      list.rows[count].provider_id = DatumGetInt32(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &is_null));
    }
    Datum next_values[] = {providers, TimestampTzGetDatum(ToTimestamp(now))};
    Execute(&next_due, next_values, false);
    Datum value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null);
    has_next = !is_null;
    next = is_null ? 0 : DatumGetTimestampTz(value);
  });
  if (error) return Complain("reading the schedule", *error);
  list.rows.resize(count);
  if (has_next) list.next_due_at = FromTimestamp(next);
  return list;
}

}  // namespace token_refresh
