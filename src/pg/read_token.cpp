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

constexpr const char* kDisconnected = "disconnected";

// One look at the credential and what belongs to it.
struct Look {
  CredentialRow row;
  char row_key[24];
  // What the envelope of row.access_token is bound to.
  const char* sealed_for;
  const char* sealed_for_row;
};

Snapshot FreshSnapshot() { return RegisterSnapshot(GetLatestSnapshot()); }

bool LookUp(const TokenRequestArgs& args, bool fresh, Look* look) {
  // A transaction snapshot may be older than the last refresh; a statement's is as new as it gets.
  bool latest = fresh || IsolationUsesXactSnapshot();
  Snapshot snapshot = latest ? FreshSnapshot() : GetActiveSnapshot();
  bool found = FetchCredential(args.provider, args.subject, args.label, snapshot, &look->row);
  if (latest) UnregisterSnapshot(snapshot);
  if (!found) return false;
  pg_lltoa(look->row.id, look->row_key);
  look->sealed_for = kCredentialPlace;
  look->sealed_for_row = look->row_key;
  return true;
}

const KnownProvider* RequireProvider(text* name) {
  char* provider_name = text_to_cstring(name);
  const KnownProvider* provider = FindProvider(provider_name);
  if (provider == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("unknown provider \"%s\"", provider_name),
                    errhint("Create it with token_refresh.create_provider().")));
  return provider;
}

text* OpenToken(const Look& look) {
  const bytea* sealed = look.row.access_token;
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
    SealedPlace place{look.sealed_for, look.sealed_for_row, "access_token"};
    return OpenInto(**ring, place, envelope, VARDATA(opened));
  });
  SET_VARSIZE(opened, VARHDRSZ + size);
  return opened;
}

bool Alive(bool expires, TimestampTz expires_at) { return !expires || expires_at > GetCurrentTimestamp(); }

// Good enough for this caller: valid for as long as it wants, or so fresh that another refresh would
// not give more.
bool GoodEnough(const TokenRequestArgs& args, const CredentialRow& row) {
  if (!row.expires) return true;
  int64_t remaining = row.expires_at - GetCurrentTimestamp();
  if (args.has_min_validity) {
    if (remaining >= args.min_validity) return true;
    return remaining > (row.expires_at - row.issued_at) / 10 * 9;
  }
  const KnownProvider* provider = RequireProvider(args.provider);
  Micros margin = RefreshMargin(provider->timing, static_cast<Micros>(Settings::refresh_margin_s) * kSecond,
                                FromTimestamp(row.issued_at), FromTimestamp(row.expires_at));
  return remaining >= margin;
}

// A refreshed token that its table has not accepted yet is as good as any: it takes the place of the one in the row.
void PreferParked(Look* look) {
  ParkedRow parked;
  CredentialRow* row = &look->row;
  Snapshot snapshot = FreshSnapshot();
  bool found = FetchParked(kBuiltInTokenTable, look->row_key, snapshot, &parked);
  UnregisterSnapshot(snapshot);
  if (!found || parked.access_token == nullptr || parked.issued_at <= row->issued_at) return;
  if (!Alive(parked.expires, parked.expires_at) && Alive(row->expires, row->expires_at)) return;
  look->sealed_for = kParkedPlace;
  look->sealed_for_row = psprintf("%d:%s", kBuiltInTokenTable, look->row_key);
  row->access_token = parked.access_token;
  row->token_type = parked.token_type;
  if (parked.scope != nullptr) row->scope = parked.scope;
  row->issued_at = parked.issued_at;
  row->expires = parked.expires;
  row->expires_at = parked.expires_at;
  if (strcmp(row->status, kDisconnected) != 0) row->status = pstrdup("connected");
}

// What is committed now, in the row or beside it.
bool LookAgain(const TokenRequestArgs& args, Look* look) {
  if (!LookUp(args, true, look)) return false;
  PreferParked(look);
  return true;
}

void AnswerFrom(const Look& look, TokenAnswer* answer) {
  answer->stored = true;
  answer->access_token = OpenToken(look);
  answer->token_type = look.row.token_type;
  answer->scope = look.row.scope;
  answer->expires = look.row.expires;
  answer->expires_at = look.row.expires_at;
  answer->status = look.row.status;
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

bool IsDisconnected(const ScheduleRow& schedule) { return strcmp(schedule.status, kDisconnected) == 0; }

// Never refreshed again as it is: the provider has said that the grant is dead, or the application that it is over.
bool IsDead(const ScheduleRow& schedule) {
  return strcmp(schedule.status, "needs_reauth") == 0 || IsDisconnected(schedule);
}

const char* FailureMessage(const ScheduleRow& schedule) {
  if (schedule.message != nullptr) return schedule.message;
  if (schedule.failure != nullptr) return schedule.failure;
  if (IsDisconnected(schedule)) return "the credential has been disconnected";
  // After a restore: the status is in the dump, the schedule is not.
  return IsDead(schedule) ? "the user must sign in again" : nullptr;
}

// What can be said without asking the refresher. True when that is all.
bool AnswerAtOnce(const Look& look, const ScheduleRow& schedule, TokenAnswer* answer) {
  if (IsDead(schedule)) {
    AnswerWithoutRefresh(look, schedule.status, FailureMessage(schedule), answer);
    return true;
  }
  if (!look.row.has_refresh_token) {
    AnswerWithoutRefresh(look, nullptr, DemandMessage(DemandResult::kNoRefreshToken), answer);
    return true;
  }
  bool backing_off = schedule.attempts > 0 && schedule.due && schedule.due_at > GetCurrentTimestamp();
  if (backing_off && Alive(look.row.expires, look.row.expires_at)) {
    AnswerWithoutRefresh(look, nullptr, FailureMessage(schedule), answer);
    return true;
  }
  return false;
}

const char* ExplainFailure(const DemandOutcome& outcome, const ScheduleRow& schedule) {
  const char* message = DemandMessage(outcome);
  return message != nullptr ? message : FailureMessage(schedule);
}

// The refresher was not asked. While the old token lives that is no reason to fail, unless the caller has said that
// it needs more of it; where nothing can be refreshed at all, everybody lives with what there is.
void AnswerUnasked(const TokenRequestArgs& args, const Look& look, const ScheduleRow& schedule,
                   const DemandOutcome& outcome, TokenAnswer* answer) {
  bool content = !args.has_min_validity || outcome.end == DemandEnd::kCannotRefresh;
  if (!content || !Alive(look.row.expires, look.row.expires_at)) RaiseNotAsked(outcome);
  AnswerWithoutRefresh(look, nullptr, ExplainFailure(outcome, schedule), answer);
}

void AnswerAfterDemand(const TokenRequestArgs& args, const DemandOutcome& outcome, TokenAnswer* answer) {
  Look look;
  if (!LookAgain(args, &look)) {
    answer->status = kDisconnected;
    answer->message = DemandMessage(DemandResult::kNotFound);
    return;
  }
  answer->was_refreshed = IsFresh(outcome);
  if (answer->was_refreshed && Alive(look.row.expires, look.row.expires_at)) {
    AnswerFrom(look, answer);
    return;
  }
  ScheduleRow schedule;
  bool scheduled = LookUpSchedule(look, &schedule);
  const char* status = scheduled && IsDead(schedule) ? schedule.status : nullptr;
  AnswerWithoutRefresh(look, status, scheduled ? ExplainFailure(outcome, schedule) : nullptr, answer);
}

// What has become of the credential; its tokens stay sealed.
void DescribeRefresh(const TokenRequestArgs& args, const DemandOutcome& outcome, RefreshAnswer* answer) {
  Look look;
  ScheduleRow schedule;
  bool answered = outcome.end == DemandEnd::kAnswered;
  answer->success = IsFresh(outcome);
  if (!answer->success) answer->failure = answered ? DemandFailure(outcome.result) : "transient";
  if (!LookAgain(args, &look)) {
    answer->message = DemandMessage(DemandResult::kNotFound);
    return;
  }
  answer->expires = look.row.expires;
  answer->expires_at = look.row.expires_at;
  if (answer->success || !LookUpSchedule(look, &schedule)) return;
  answer->message = ExplainFailure(outcome, schedule);
  if (answered && outcome.result == DemandResult::kReauth && schedule.failure != nullptr)
    answer->failure = schedule.failure;
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
    answer->status = kDisconnected;
    answer->message = "no credential is stored for this subject and label";
    return;
  }
  bool good = GoodEnough(args, look.row);
  // The statement may have begun before the last refresh was committed.
  if (!good && LookAgain(args, &look)) good = GoodEnough(args, look.row);
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
  if (WasAsked(outcome))
    AnswerAfterDemand(args, outcome, answer);
  else
    AnswerUnasked(args, look, schedule, outcome, answer);
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
  if (!WasAsked(outcome)) RaiseNotAsked(outcome);
  DescribeRefresh(args, outcome, answer);
}

}  // namespace token_refresh
