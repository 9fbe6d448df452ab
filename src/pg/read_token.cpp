#include "pg/read_token.h"

#include "core/refresh_policy.h"
#include "core/sealed_box.h"
#include "pg/boundary.h"
#include "pg/keys.h"
#include "pg/provider_cache.h"
#include "pg/settings.h"

namespace token_refresh {

namespace {

// A caller whose token still lives does not wait longer than this for a better one, unless it asked
// for a validity of its own.
constexpr int64_t kPatienceWhileAliveMs = 1000;

// One look at the credential and what belongs to it.
struct Look {
  CredentialRow row;
  char row_key[24];
};

Snapshot FreshSnapshot() { return RegisterSnapshot(GetLatestSnapshot()); }

bool LookUp(const TokenRequestArgs& args, bool fresh, Look* look) {
  // A transaction snapshot may be older than the last refresh; a statement's is as new as it gets.
  bool latest = fresh || IsolationUsesXactSnapshot();
  Snapshot snapshot = latest ? FreshSnapshot() : GetActiveSnapshot();
  bool found = FetchCredential(args.provider, args.subject, args.label, snapshot, &look->row);
  if (latest) UnregisterSnapshot(snapshot);
  if (found) pg_lltoa(look->row.id, look->row_key);
  return found;
}

const KnownProvider* RequireProvider(text* name) {
  char* provider_name = text_to_cstring(name);
  const KnownProvider* provider = FindProvider(provider_name);
  if (provider == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("unknown provider \"%s\"", provider_name),
                    errhint("Create it with token_refresh.create_provider().")));
  return provider;
}

text* OpenToken(const char* place, const char* row_key, bytea* sealed) {
  std::string_view envelope(VARDATA_ANY(sealed), VARSIZE_ANY_EXHDR(sealed));
  // Allocated before C++ is entered: the plaintext is not longer than its envelope.
  text* opened = static_cast<text*>(palloc(VARHDRSZ + envelope.size()));
  size_t size = 0;
  RunCpp([&]() -> Status {
    Result<const KeyRing*> ring = LoadKeyRing();
    if (!ring.ok()) return ring.error();
    Result<size_t> length = OpenedSize(envelope);
    if (!length.ok()) return length.error();
    size = *length;
    return OpenInto(**ring, SealedPlace{place, row_key, "access_token"}, envelope, VARDATA(opened));
  });
  SET_VARSIZE(opened, VARHDRSZ + size);
  return opened;
}

bool Alive(bool expires, TimestampTz expires_at) { return !expires || expires_at > GetCurrentTimestamp(); }

// Good enough for this caller: valid for as long as it wants, or so fresh that another refresh would
// not give more.
bool GoodEnough(const TokenRequestArgs& args, TimestampTz issued_at, bool expires, TimestampTz expires_at) {
  if (!expires) return true;
  int64_t remaining = expires_at - GetCurrentTimestamp();
  if (args.has_min_validity) {
    if (remaining >= args.min_validity) return true;
    return remaining > (expires_at - issued_at) / 10 * 9;
  }
  const KnownProvider* provider = RequireProvider(args.provider);
  Micros margin = RefreshMargin(provider->timing, static_cast<Micros>(Settings::refresh_margin_s) * kSecond,
                                FromTimestamp(issued_at), FromTimestamp(expires_at));
  return remaining >= margin;
}

bool GoodEnough(const TokenRequestArgs& args, const CredentialRow& row) {
  return GoodEnough(args, row.issued_at, row.expires, row.expires_at);
}

void AnswerFrom(const Look& look, TokenAnswer* answer) {
  answer->stored = true;
  answer->access_token = OpenToken(kCredentialPlace, look.row_key, look.row.access_token);
  answer->token_type = look.row.token_type;
  answer->scope = look.row.scope;
  answer->expires = look.row.expires;
  answer->expires_at = look.row.expires_at;
  answer->status = look.row.status;
}

// A refreshed token that its table has not accepted yet is as good as any.
bool AnswerFromParked(const Look& look, TokenAnswer* answer) {
  ParkedRow parked;
  Snapshot snapshot = FreshSnapshot();
  bool found = FetchParked(kBuiltInTokenTable, look.row_key, snapshot, &parked);
  UnregisterSnapshot(snapshot);
  if (!found || !Alive(parked.expires, parked.expires_at)) return false;
  char* place_row = psprintf("%d:%s", kBuiltInTokenTable, look.row_key);
  answer->stored = true;
  answer->access_token = OpenToken(kParkedPlace, place_row, parked.access_token);
  answer->token_type = parked.token_type;
  answer->scope = parked.scope;
  answer->expires = parked.expires;
  answer->expires_at = parked.expires_at;
  answer->status = "connected";
  return true;
}

// The old token while it lives, else none and the reason.
void AnswerWithoutRefresh(const Look& look, const char* status, const char* message, TokenAnswer* answer) {
  bool alive = Alive(look.row.expires, look.row.expires_at);
  if (alive) {
    AnswerFrom(look, answer);
  } else {
    answer->stored = true;
    answer->token_type = look.row.token_type;
    answer->scope = look.row.scope;
    answer->expires = look.row.expires;
    answer->expires_at = look.row.expires_at;
  }
  answer->status = status != nullptr ? status : alive ? look.row.status : "token_expired";
  answer->message = message;
}

bool LookUpSchedule(const Look& look, ScheduleRow* schedule) {
  Snapshot snapshot = FreshSnapshot();
  bool found = FetchSchedule(kBuiltInTokenTable, look.row_key, snapshot, schedule);
  UnregisterSnapshot(snapshot);
  return found;
}

bool IsDead(const ScheduleRow& schedule) { return strcmp(schedule.status, "needs_reauth") == 0; }

const char* FailureMessage(const ScheduleRow& schedule) {
  if (schedule.message != nullptr) return schedule.message;
  if (schedule.failure != nullptr) return schedule.failure;
  // After a restore: the status is in the dump, the schedule is not.
  return IsDead(schedule) ? "the user must sign in again" : nullptr;
}

// What can be said without asking the refresher. True when that is all.
bool AnswerAtOnce(const Look& look, const ScheduleRow& schedule, TokenAnswer* answer) {
  if (AnswerFromParked(look, answer)) return true;
  if (IsDead(schedule)) {
    AnswerWithoutRefresh(look, "needs_reauth", FailureMessage(schedule), answer);
    return true;
  }
  if (!look.row.has_refresh_token) {
    AnswerWithoutRefresh(look, nullptr, DemandMessage(DemandResult::kNoRefreshToken), answer);
    return true;
  }
  bool alive = Alive(look.row.expires, look.row.expires_at);
  bool backing_off = schedule.attempts > 0 && schedule.due && schedule.due_at > GetCurrentTimestamp();
  if (alive && (backing_off || !CanRefresh()) && !schedule.written_by_this_transaction) {
    AnswerWithoutRefresh(look, nullptr, FailureMessage(schedule), answer);
    return true;
  }
  return false;
}

const char* ExplainFailure(const DemandOutcome& outcome, const ScheduleRow& schedule) {
  if (outcome.timed_out) return "timed out waiting for the provider; the refresh goes on";
  const char* message = DemandMessage(outcome.result);
  return message != nullptr ? message : FailureMessage(schedule);
}

// After the refresher has answered: the committed row, read anew.
void AnswerAfterDemand(const TokenRequestArgs& args, const DemandOutcome& outcome, TokenAnswer* answer) {
  Look look;
  if (!LookUp(args, true, &look)) {
    answer->status = "disconnected";
    answer->message = DemandMessage(DemandResult::kNotFound);
    return;
  }
  if (!outcome.timed_out && IsFresh(outcome.result)) {
    answer->was_refreshed = true;
    if (outcome.result == DemandResult::kParked && AnswerFromParked(look, answer)) return;
    if (Alive(look.row.expires, look.row.expires_at)) {
      AnswerFrom(look, answer);
      return;
    }
  }
  ScheduleRow schedule;
  bool scheduled = LookUpSchedule(look, &schedule);
  const char* status = scheduled && IsDead(schedule) ? "needs_reauth" : nullptr;
  AnswerWithoutRefresh(look, status, scheduled ? ExplainFailure(outcome, schedule) : nullptr, answer);
}

int64_t Patience(const TokenRequestArgs& args, const Look& look) {
  int64_t timeout = Settings::request_timeout_ms;
  if (!args.has_min_validity && Alive(look.row.expires, look.row.expires_at))
    return Min(timeout, kPatienceWhileAliveMs);
  return timeout;
}

}  // namespace

void ObtainToken(const TokenRequestArgs& args, TokenAnswer* answer) {
  *answer = {};
  Look look;
  if (!LookUp(args, false, &look)) {
    RequireProvider(args.provider);
    answer->status = "disconnected";
    answer->message = "no credential is stored for this subject and label";
    return;
  }
  bool good = GoodEnough(args, look.row);
  // The statement may have begun before the last refresh was committed.
  if (!good && LookUp(args, true, &look)) good = GoodEnough(args, look.row);
  if (good) {
    AnswerFrom(look, answer);
    return;
  }
  ScheduleRow schedule;
  if (!LookUpSchedule(look, &schedule)) {
    AnswerWithoutRefresh(look, nullptr, "not scheduled yet; the refresher finds it with its next sweep", answer);
    return;
  }
  if (AnswerAtOnce(look, schedule, answer)) return;
  DemandOutcome outcome = RefreshAndWait(schedule, Patience(args, look));
  AnswerAfterDemand(args, outcome, answer);
}

void RefreshNow(const TokenRequestArgs& args, RefreshAnswer* answer) {
  *answer = {};
  Look look;
  ScheduleRow schedule;
  if (!LookUp(args, true, &look) || !LookUpSchedule(look, &schedule)) {
    RequireProvider(args.provider);
    answer->failure = "reauth";
    answer->message = "no credential is stored for this subject and label";
    return;
  }
  if (IsDead(schedule) || !look.row.has_refresh_token) {
    answer->failure = IsDead(schedule) && schedule.failure != nullptr ? schedule.failure : "reauth";
    answer->message = IsDead(schedule) ? FailureMessage(schedule) : DemandMessage(DemandResult::kNoRefreshToken);
    answer->expires = look.row.expires;
    answer->expires_at = look.row.expires_at;
    return;
  }
  DemandOutcome outcome = RefreshAndWait(schedule, Settings::request_timeout_ms);
  TokenAnswer token = {};
  AnswerAfterDemand(args, outcome, &token);
  answer->success = !outcome.timed_out && IsFresh(outcome.result);
  answer->expires = token.expires;
  answer->expires_at = token.expires_at;
  if (answer->success) return;
  bool scheduled = LookUpSchedule(look, &schedule);
  answer->failure = outcome.timed_out ? "transient" : DemandFailure(outcome.result);
  if (outcome.result == DemandResult::kReauth && scheduled && schedule.failure != nullptr)
    answer->failure = schedule.failure;
  answer->message = token.message;
}

}  // namespace token_refresh
