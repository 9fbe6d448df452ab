#include "pg/api_token_desk.h"

#include <algorithm>

#include "pg/api_token_use.h"
#include "pg/boundary.h"
#include "pg/failure_log.h"
#include "pg/save_arrays.h"
#include "pg/settings.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"

namespace token_refresh {

namespace {

constexpr const char* kActivity = "API tokens";
// A family that somebody holds is tried again after 1, 2, 4 ... 60 s, few at a time and without much patience, as
// others are waiting.
constexpr Micros kFirstPause = kSecond;
constexpr Micros kLongestPause = kMinute;
constexpr int kRevokeAtOnce = 4;
constexpr const char* kRevokeLockTimeout = "20ms";
// Tidying up goes in steps, too.
constexpr int kTidyAtOnce = 1000;
constexpr int kFlushAtOnce = 4096;

Statement rotate_tokens = {
    "SELECT r.token_id, r.result FROM token_refresh._rotate_api_tokens($1, true) r", 1, {INT8ARRAYOID}, nullptr};
Statement revoke_token = {
    "SELECT token_refresh._revoke_family(t.family, 'api_token_reused', t.id,"
    " 'a token was presented after its grace period') FROM token_refresh.api_token t WHERE t.id = $1",
    1,
    {INT8OID},
    nullptr};
Statement flush_use = {
    "SELECT token_refresh._flush_api_token_use($1, $2, $3)",
    3,
    {INT8ARRAYOID, TIMESTAMPTZARRAYOID, INT8ARRAYOID},
    nullptr};

Statement tidy = {
    "SELECT token_refresh._tidy_api_tokens(make_interval(mins => $1), $2)", 2, {INT4OID, INT4OID}, nullptr};

DemandResult ReadResult(const char* word) {
  if (strcmp(word, "done") == 0) return DemandResult::kRefreshed;
  return strcmp(word, "locked") == 0 ? DemandResult::kLocked : DemandResult::kNotFound;
}

}  // namespace

void ApiTokenDesk::Take(const RequestSubject& subject) {
  if (subject.kind == RequestKind::kRotateApiToken) rotations_.push_back(subject.id);
  if (subject.kind != RequestKind::kRevokeApiToken) return;
  for (const Revocation& known : revocations_)
    if (known.id == subject.id) return FinishRequest(database_, subject, DemandResult::kLocked);
  revocations_.push_back({subject.id, 0, 0});
}

void ApiTokenDesk::Serve(Micros now) {
  if (!rotations_.empty()) Rotate();
  RevokeDue(now);
  const TimestampTz noted_at = UseNotedAt(database_);
  if (noted_at != 0 && now >= FromTimestamp(noted_at) + Settings::api_token_use_interval_s * kSecond) FlushUse();
  if (now >= tidy_at_) Tidy(now);
}

// Tidying up needs no waking: it is done as often as tables are swept, for which the refresher wakes up anyway.
Micros ApiTokenDesk::NextAt() const {
  const TimestampTz noted_at = UseNotedAt(database_);
  Micros next = tidy_at_ == 0 ? 0 : INT64_MAX;
  for (const Revocation& revocation : revocations_) next = std::min(next, revocation.due_at);
  if (noted_at != 0) next = std::min(next, FromTimestamp(noted_at) + Settings::api_token_use_interval_s * kSecond);
  return next;
}

// All in one transaction; if that fails each in its own, so that one bad row harms no other.
void ApiTokenDesk::Rotate() {
  const int count = static_cast<int>(rotations_.size());
  const bool done = RotateSome(rotations_.data(), count);
  for (int i = 0; !done && i < count; i++)
    if (count == 1 || !RotateSome(&rotations_[i], 1))
      FinishRequest(database_, {RequestKind::kRotateApiToken, rotations_[i]}, DemandResult::kInternal);
  rotations_.clear();
}

// False: an error, which is in the log; nobody has been answered.
bool ApiTokenDesk::RotateSome(const int64_t* ids, int count) {
  std::vector<DemandResult> results(count, DemandResult::kInternal);
  DemandResult* out = results.data();
  auto error = RunPostgres(kActivity, [=] {
    // The client is told of the new token at once.
    CommitToDisk();
    Datum values[] = {MakeArray(count, INT8OID, [ids](int i, bool*) { return Int64GetDatum(ids[i]); })};
    const uint64 rows = Execute(&rotate_tokens, values, false);
    for (uint64 row = 0; row < rows; row++) {
      bool is_null;
      HeapTuple tuple = SPI_tuptable->vals[row];
      const int64_t id = DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &is_null));
      const DemandResult result = ReadResult(SPI_getvalue(tuple, SPI_tuptable->tupdesc, 2));
      for (int i = 0; i < count; i++)
        if (ids[i] == id) out[i] = result;
    }
  });
  if (error) {
    LogFailure("rotating API tokens", *error);
    return false;
  }
  for (int i = 0; i < count; i++) FinishRequest(database_, {RequestKind::kRotateApiToken, ids[i]}, results[i]);
  return true;
}

// One by one, so that a row that somebody holds keeps no other family alive.
void ApiTokenDesk::RevokeDue(Micros now) {
  int tried = 0;
  for (Revocation& revocation : revocations_) {
    if (revocation.due_at > now) continue;
    if (tried++ == kRevokeAtOnce) break;
    const bool done = Revoke(revocation.id);
    FinishRequest(database_, {RequestKind::kRevokeApiToken, revocation.id},
                  done ? DemandResult::kRefreshed : DemandResult::kLocked);
    revocation.pause = done ? -1 : std::clamp(2 * revocation.pause, kFirstPause, kLongestPause);
    revocation.due_at = now + revocation.pause;
  }
  std::erase_if(revocations_, [](const Revocation& revocation) { return revocation.pause < 0; });
}

bool ApiTokenDesk::Revoke(int64_t id) {
  auto error = RunPostgres(kActivity, [id] {
    CommitToDisk();
    set_config_option("lock_timeout", kRevokeLockTimeout, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
    Datum values[] = {Int64GetDatum(id)};
    Execute(&revoke_token, values, false);
  });
  if (error && error->sqlstate != ERRCODE_LOCK_NOT_AVAILABLE) LogFailure("revoking an API token", *error);
  return !error;
}

void ApiTokenDesk::FlushUse() {
  if (UseNotedAt(database_) == 0) return;
  ForgetUseNoted(database_);
  while (FlushSome()) continue;
}

bool ApiTokenDesk::FlushSome() {
  std::vector<ApiTokenUse> taken(kFlushAtOnce);
  const int count = TakeApiTokenUse(database_, taken.data(), kFlushAtOnce);
  if (count == 0) return false;
  const ApiTokenUse* uses = taken.data();
  auto error = RunPostgres(kActivity, [=] {
    Datum values[] = {
        MakeArray(count, INT8OID, [uses](int i, bool*) { return Int64GetDatum(uses[i].token_id); }),
        MakeArray(count, TIMESTAMPTZOID, [uses](int i, bool*) { return TimestampTzGetDatum(uses[i].last_used_at); }),
        MakeArray(count, INT8OID, [uses](int i, bool*) { return Int64GetDatum(uses[i].count); })};
    Execute(&flush_use, values, false);
  });
  if (!error) return count == kFlushAtOnce;
  LogFailure("writing down the use of API tokens", *error);
  for (int i = 0; i < count; i++) ReturnApiTokenUse(database_, uses[i]);
  NoteUseOf(database_, GetCurrentTimestamp());
  return false;
}

void ApiTokenDesk::Tidy(Micros now) {
  bool more = false;
  auto error = RunPostgres(kActivity, [&more] {
    bool is_null;
    Datum values[] = {Int32GetDatum(Settings::api_token_retention_min), Int32GetDatum(kTidyAtOnce)};
    Execute(&tidy, values, false);
    more = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
  });
  if (error) LogFailure("tidying up API tokens", *error);
  tidy_at_ = more && !error ? 0 : now + Settings::sweep_interval_s * kSecond;
}

}  // namespace token_refresh
