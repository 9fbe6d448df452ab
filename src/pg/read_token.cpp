#include "pg/read_token.h"

#include "core/refresh_policy.h"
#include "pg/provider_cache.h"
#include "pg/settings.h"
#include "pg/token_look.h"

namespace token_refresh {

namespace {

// A caller whose token still lives does not wait longer than this for a better one, unless it asked
// for a validity of its own.
constexpr int64_t kPatienceWhileAliveMs = 1000;

constexpr const char* kNotScheduled = "not scheduled yet; the refresher finds it with its next sweep";

void RequireProvider(const TokenRequestArgs& args) {
  if (args.table != nullptr) return;
  char* name = text_to_cstring(args.provider);
  if (FindProvider(name) == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("unknown provider \"%s\"", name),
                    errhint("Create it with token_refresh.create_provider().")));
}

// Good enough for this caller: valid for as long as it wants, or so fresh that another refresh would
// not give more.
bool GoodEnough(const TokenRequestArgs& args, const Look& look) {
  const CredentialRow& row = look.row;
  if (!row.expires) return true;
  const Micros expires_at = FromTimestamp(row.expires_at);
  const Micros remaining = expires_at - FromTimestamp(GetCurrentTimestamp());
  if (args.has_min_validity) {
    if (remaining >= args.min_validity) return true;
    return look.issued && remaining > (expires_at / 10 - FromTimestamp(row.issued_at) / 10) * 9;
  }
  const char* name = args.table != nullptr ? look.provider : text_to_cstring(args.provider);
  const KnownProvider* provider = name != nullptr ? FindProvider(name) : nullptr;
  RefreshTiming timing = provider != nullptr ? provider->timing : RefreshTiming();
  if (args.table != nullptr && args.table->refresh_margin > 0) timing.refresh_margin = args.table->refresh_margin;
  const Micros default_margin = static_cast<Micros>(Settings::refresh_margin_s) * kSecond;
  // Of tokens of unknown age the whole margin is wanted; the schedule may know better.
  const Micros unknown_since = expires_at - 4 * timing.refresh_margin.value_or(default_margin);
  Micros margin = RefreshMargin(timing, default_margin, look.issued ? FromTimestamp(row.issued_at) : unknown_since,
                                expires_at);
  return remaining >= margin;
}

void AnswerFrom(const TokenRequestArgs& args, const Look& look, TokenAnswer* answer) {
  answer->stored = true;
  answer->access_token = OpenToken(args, look);
  answer->token_type = look.row.token_type;
  answer->scope = look.row.scope;
  answer->expires = look.row.expires;
  answer->expires_at = look.row.expires_at;
  answer->status = look.row.status;
}

// The old token while it lives, else none and the reason.
void AnswerWithoutRefresh(const TokenRequestArgs& args, const Look& look, const char* status, const char* message, TokenAnswer* answer) {
  bool alive = Alive(look.row.expires, look.row.expires_at);
  if (alive) {
    AnswerFrom(args, look, answer);
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

bool IsDisconnected(const ScheduleRow& schedule) { return strcmp(schedule.status, kGone) == 0; }

// Never refreshed again as it is: the provider has said that the grant is dead, or the application that it is over.
bool IsDead(const ScheduleRow& schedule) {
  return strcmp(schedule.status, "needs_reauth") == 0 || IsDisconnected(schedule);
}

// A row of an attached table that names no provider that exists; the schedule says which.
bool HasNoProvider(const ScheduleRow& schedule) { return schedule.provider == 0; }

const char* FailureMessage(const ScheduleRow& schedule) {
  if (schedule.message != nullptr) return schedule.message;
  if (schedule.failure != nullptr) return schedule.failure;
  if (IsDisconnected(schedule)) return "the credential has been disconnected";
  // After a restore: the status is in the dump, the schedule is not.
  return IsDead(schedule) ? "the user must sign in again" : nullptr;
}

// What can be said without asking the refresher. True when that is all.
bool AnswerAtOnce(const TokenRequestArgs& args, const Look& look, const ScheduleRow& schedule, TokenAnswer* answer) {
  if (IsDead(schedule)) {
    AnswerWithoutRefresh(args, look, schedule.status, FailureMessage(schedule), answer);
    return true;
  }
  if (!look.row.has_refresh_token) {
    AnswerWithoutRefresh(args, look, nullptr, DemandMessage(DemandResult::kNoRefreshToken), answer);
    return true;
  }
  if (HasNoProvider(schedule)) {
    AnswerWithoutRefresh(args, look, nullptr, FailureMessage(schedule), answer);
    return true;
  }
  // Of a token of unknown age the schedule knows whether it is good enough.
  const bool planned = !look.issued && !args.has_min_validity && schedule.attempts == 0 && schedule.due &&
                       schedule.due_at > GetCurrentTimestamp();
  if (planned && Alive(look.row.expires, look.row.expires_at)) {
    AnswerFrom(args, look, answer);
    return true;
  }
  bool backing_off = schedule.attempts > 0 && schedule.due && schedule.due_at > GetCurrentTimestamp();
  if (backing_off && Alive(look.row.expires, look.row.expires_at)) {
    AnswerWithoutRefresh(args, look, nullptr, FailureMessage(schedule), answer);
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
  AnswerWithoutRefresh(args, look, nullptr, ExplainFailure(outcome, schedule), answer);
}

void AnswerAfterDemand(const TokenRequestArgs& args, const DemandOutcome& outcome, TokenAnswer* answer) {
  Look look;
  if (!LookAgain(args, &look)) {
    answer->status = kGone;
    answer->message = DemandMessage(DemandResult::kNotFound);
    return;
  }
  answer->was_refreshed = IsFresh(outcome);
  if (answer->was_refreshed && Alive(look.row.expires, look.row.expires_at)) {
    AnswerFrom(args, look, answer);
    return;
  }
  ScheduleRow schedule;
  bool scheduled = LookUpSchedule(look, &schedule);
  const char* status = scheduled && IsDead(schedule) ? schedule.status : nullptr;
  AnswerWithoutRefresh(args, look, status, scheduled ? ExplainFailure(outcome, schedule) : nullptr, answer);
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

const char* NothingStored(const TokenRequestArgs& args) {
  return args.table != nullptr ? "the table has no such row" : "no credential is stored for this subject and label";
}

}  // namespace

void ObtainToken(const TokenRequestArgs& args, TokenAnswer* answer) {
  *answer = {};
  Look look;
  if (!LookUp(args, false, &look)) {
    RequireProvider(args);
    answer->status = kGone;
    answer->message = NothingStored(args);
    return;
  }
  bool good = GoodEnough(args, look);
  // The statement may have begun before the last refresh was committed.
  if (!good && LookAgain(args, &look)) good = GoodEnough(args, look);
  if (good) {
    AnswerFrom(args, look, answer);
    return;
  }
  ScheduleRow schedule;
  if (!LookUpSchedule(look, &schedule)) {
    AnswerWithoutRefresh(args, look, nullptr, kNotScheduled, answer);
    return;
  }
  if (AnswerAtOnce(args, look, schedule, answer)) return;
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
  if (!LookUp(args, true, &look)) {
    RequireProvider(args);
    answer->failure = "reauth";
    answer->message = NothingStored(args);
    return;
  }
  if (!LookUpSchedule(look, &schedule)) {
    answer->failure = "transient";
    answer->message = kNotScheduled;
    return;
  }
  if (IsDead(schedule) || !look.row.has_refresh_token) {
    answer->failure = IsDead(schedule) && schedule.failure != nullptr ? schedule.failure : "reauth";
    answer->message = IsDead(schedule) ? FailureMessage(schedule) : DemandMessage(DemandResult::kNoRefreshToken);
    answer->expires = look.row.expires;
    answer->expires_at = look.row.expires_at;
    return;
  }
  if (HasNoProvider(schedule)) {
    answer->failure = "client_config";
    answer->message = FailureMessage(schedule);
    return;
  }
  DemandOutcome outcome = RefreshAndWait(schedule, Settings::request_timeout_ms);
  if (!WasAsked(outcome)) RaiseNotAsked(outcome);
  DescribeRefresh(args, outcome, answer);
}

}  // namespace token_refresh
