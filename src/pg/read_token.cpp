#include "pg/read_token.h"

#include "core/refresh_policy.h"
#include "core/sealed_box.h"
#include "pg/boundary.h"
#include "pg/keys.h"
#include "pg/provider_cache.h"
#include "pg/read_attached.h"
#include "pg/settings.h"

namespace token_refresh {

namespace {

// A caller whose token still lives does not wait longer than this for a better one, unless it asked
// for a validity of its own.
constexpr int64_t kPatienceWhileAliveMs = 1000;

constexpr const char* kGone = "disconnected";
constexpr const char* kNotScheduled = "not scheduled yet; the refresher finds it with its next sweep";

// One look at the credential and what belongs to it.
struct Look {
  CredentialRow row;
  int32_t token_table;
  const char* row_key;
  char id_text[24];
  const char* provider;  // may be null in an attached table
  const char* subject;   // of an attached row
  bool issued;           // row.issued_at is known
  // What the envelope of row.access_token is bound to; null: the token is as the attached table stores it.
  const char* sealed_for;
  const char* sealed_for_row;
};

Snapshot FreshSnapshot() { return RegisterSnapshot(GetLatestSnapshot()); }

bool LookUpCredential(const TokenRequestArgs& args, Snapshot snapshot, Look* look) {
  if (!FetchCredential(args.provider, args.subject, args.label, snapshot, &look->row)) return false;
  pg_lltoa(look->row.id, look->id_text);
  look->token_table = kBuiltInTokenTable;
  look->row_key = look->id_text;
  look->issued = true;
  look->sealed_for = kCredentialPlace;
  look->sealed_for_row = look->row_key;
  return true;
}

bool LookUpAttached(const TokenRequestArgs& args, Snapshot snapshot, Look* look) {
  AttachedRow attached;
  if (!FetchAttached(args.table, args.row_key, snapshot, &attached)) return false;
  look->row = attached.row;
  look->token_table = args.table->id;
  look->row_key = attached.row_key;
  look->provider = attached.provider;
  look->subject = attached.subject;
  look->issued = attached.issued;
  look->sealed_for = nullptr;
  return true;
}

bool LookUp(const TokenRequestArgs& args, bool fresh, Look* look) {
  // A transaction snapshot may be older than the last refresh; a statement's is as new as it gets.
  bool latest = fresh || IsolationUsesXactSnapshot();
  Snapshot snapshot = latest ? FreshSnapshot() : GetActiveSnapshot();
  bool found = args.table != nullptr ? LookUpAttached(args, snapshot, look) : LookUpCredential(args, snapshot, look);
  if (latest) UnregisterSnapshot(snapshot);
  return found;
}

void RequireProvider(const TokenRequestArgs& args) {
  if (args.table != nullptr) return;
  char* name = text_to_cstring(args.provider);
  if (FindProvider(name) == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("unknown provider \"%s\"", name),
                    errhint("Create it with token_refresh.create_provider().")));
}

text* OpenToken(const TokenRequestArgs& args, const Look& look) {
  bytea* sealed = look.row.access_token;
  if (sealed == nullptr) return nullptr;
  if (look.sealed_for == nullptr) return OpenAttached(*args.table, look.row_key, look.subject, sealed);
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

// A refreshed token that its table has not accepted yet is as good as any: it takes the place of the one in the row.
void PreferParked(Look* look) {
  ParkedRow parked;
  CredentialRow* row = &look->row;
  ScheduleRow schedule;
  Snapshot snapshot = FreshSnapshot();
  bool found = FetchSchedule(look->token_table, look->row_key, snapshot, &schedule) &&
               FetchParked(schedule.id, snapshot, &parked);
  UnregisterSnapshot(snapshot);
  if (!found || parked.access_token == nullptr) return;
  if (look->issued && parked.issued_at <= row->issued_at) return;
  if (!Alive(parked.expires, parked.expires_at) && Alive(row->expires, row->expires_at)) return;
  look->sealed_for = kParkedPlace;
  look->sealed_for_row = psprintf(INT64_FORMAT, schedule.id);
  row->access_token = parked.access_token;
  row->token_type = parked.token_type;
  if (parked.scope != nullptr) row->scope = parked.scope;
  row->issued_at = parked.issued_at;
  look->issued = true;
  row->expires = parked.expires;
  row->expires_at = parked.expires_at;
  if (strcmp(row->status, kGone) != 0) row->status = pstrdup("connected");
}

// What is committed now, in the row or beside it.
bool LookAgain(const TokenRequestArgs& args, Look* look) {
  if (!LookUp(args, true, look)) return false;
  PreferParked(look);
  return true;
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

bool LookUpSchedule(const Look& look, ScheduleRow* schedule) {
  Snapshot snapshot = FreshSnapshot();
  bool found = FetchSchedule(look.token_table, look.row_key, snapshot, schedule);
  UnregisterSnapshot(snapshot);
  return found;
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
