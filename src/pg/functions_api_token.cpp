// SQL functions for those who present API tokens: validate_api_token, validate_and_refresh_api_token,
// refresh_api_token, get_token_refresh_status. The first is on the way of every request of an application.
#include "core/clock.h"
#include "pg/api_token_check.h"
#include "pg/api_token_successor.h"
#include "pg/api_token_use.h"
#include "pg/arguments.h"

extern "C" {
PG_FUNCTION_INFO_V1(token_refresh_validate_api_token);
PG_FUNCTION_INFO_V1(token_refresh_validate_and_refresh_api_token);
PG_FUNCTION_INFO_V1(token_refresh_refresh_api_token);
PG_FUNCTION_INFO_V1(token_refresh_get_token_refresh_status);
}

namespace token_refresh {

namespace {

// The reasons of the contract.
constexpr const char* kTokenInvalid = "TOKEN_INVALID";
constexpr const char* kNoRefreshNeeded = "NO_REFRESH_NEEDED";
constexpr const char* kRefreshFailed = "REFRESH_FAILED";
constexpr const char* kExpiringSoon = "EXPIRING_SOON";
constexpr const char* kForced = "FORCED";

constexpr const char* kScopeMissing = "the token does not have the required scope";

// Without a threshold of the caller's own: seven days, but not for more than the last quarter of a short life.
constexpr Micros kThreshold = 7 * kDay;
// A hundred thousand years; more do not fit into Micros.
constexpr Micros kMostDays = 36'500'000;

text* TextArgument(FunctionCallInfo fcinfo, int argument) {
  return PG_ARGISNULL(argument) ? nullptr : PG_GETARG_TEXT_PP(argument);
}

// One row into the result. The description that the caller expects is used as it is: looking up our own would
// cost as much as the whole validation.
void PutRow(FunctionCallInfo fcinfo, Datum* values, bool* nulls) {
  ReturnSetInfo* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
  if (result == nullptr || !IsA(result, ReturnSetInfo) || (result->allowedModes & SFRM_Materialize) == 0)
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("a set of rows cannot be returned here"),
                    errhint("Call the function in FROM.")));
  MemoryContext previous = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
  result->returnMode = SFRM_Materialize;
  result->setResult = tuplestore_begin_heap((result->allowedModes & SFRM_Materialize_Random) != 0, false, work_mem);
  tuplestore_putvalues(result->setResult, result->expectedDesc, values, nulls);
  MemoryContextSwitchTo(previous);
}

Datum BytesOrNull(bytea* value, bool* is_null) {
  *is_null = value == nullptr;
  return PointerGetDatum(value);
}

Datum Words(const char* words) { return CStringGetTextDatum(words); }

// The verdict, and what follows of it besides the answer. Asking for the status is no use of a token.
enum class Purpose { kUse, kStatus };
bool Check(text* token, text* required_scope, Purpose purpose, bool fresh, CheckedToken* checked, const char** message) {
  CheckApiToken(token, fresh, checked);
  *message = VerdictMessage(checked->verdict);
  if (checked->verdict == ApiTokenVerdict::kReused) ReportReuse(checked->row);
  if (checked->verdict != ApiTokenVerdict::kValid) return false;
  if (purpose == Purpose::kUse) NoteApiTokenUse(checked->row.id);
  if (CoversScope(checked->row, required_scope)) return true;
  *message = kScopeMissing;
  return false;
}

// Whose the token is: the columns user_hk, tenant_hk and scope.
void PutIdentity(const CheckedToken& checked, bool is_valid, Datum* values, bool* nulls) {
  nulls[0] = nulls[1] = nulls[2] = true;
  if (!is_valid) return;
  values[0] = BytesOrNull(checked.row.user_hk, &nulls[0]);
  values[1] = BytesOrNull(checked.row.tenant_hk, &nulls[1]);
  nulls[2] = false;
  values[2] = PointerGetDatum(checked.row.scope);
}

int32 DaysLeft(TimestampTz until) { return static_cast<int32>((until - GetCurrentTimestamp()) / kDay); }

Micros OwnThreshold(const ApiTokenRow& row) { return Min(kThreshold, FromInterval(row.lifetime) / 4); }

// A successor that has been made, by the batch or for somebody else, is to be used.
bool HasSuccessor(const ApiTokenRow& row) { return row.successor_id != 0; }

bool ExpiresWithin(const ApiTokenRow& row, Micros threshold) {
  return row.expires_at - GetCurrentTimestamp() <= threshold;
}

// What asking for a successor has come to.
struct Refreshed {
  text* new_token;  // null: none
  TimestampTz expires_at;
  const char* reason;
  const char* message;
};

void Refresh(const CheckedToken& checked, const char* reason, Refreshed* refreshed) {
  Successor successor;
  ObtainSuccessor(checked.row, &successor);
  const bool got = successor.token != nullptr;
  refreshed->new_token = successor.token;
  refreshed->expires_at = got ? successor.expires_at : checked.until;
  refreshed->reason = got ? reason : kRefreshFailed;
  refreshed->message = successor.message;
}

// One that was made ahead is handed over because the old token expires.
const char* ReasonOf(const ApiTokenRow& row, Micros threshold) {
  const bool made_ahead = HasSuccessor(row) && !row.handed_over;
  return made_ahead || ExpiresWithin(row, threshold) ? kExpiringSoon : kForced;
}

void NoRefresh(const CheckedToken& checked, Refreshed* refreshed) {
  *refreshed = {nullptr, checked.until, kNoRefreshNeeded,
                psprintf("token valid for %d more days", DaysLeft(checked.until))};
}

}  // namespace

}  // namespace token_refresh

extern "C" Datum token_refresh_validate_api_token(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  CheckedToken checked;
  const char* message;
  const bool is_valid = Check(TextArgument(fcinfo, 0), TextArgument(fcinfo, 1), Purpose::kUse, false, &checked, &message);
  Datum values[6] = {};
  bool nulls[6] = {};
  values[0] = BoolGetDatum(is_valid);
  PutIdentity(checked, is_valid, values + 1, nulls + 1);
  nulls[4] = !is_valid;
  values[4] = TimestampTzGetDatum(checked.until);
  values[5] = Words(is_valid ? "token valid" : message);
  PutRow(fcinfo, values, nulls);
  return 0;
}

extern "C" Datum token_refresh_validate_and_refresh_api_token(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  CheckedToken checked;
  Refreshed refreshed = {nullptr, 0, kTokenInvalid, nullptr};
  const bool is_valid = Check(TextArgument(fcinfo, 0), TextArgument(fcinfo, 1), Purpose::kUse, false, &checked, &refreshed.message);
  if (is_valid) {
    const Micros threshold = OwnThreshold(checked.row);
    const bool wanted = HasSuccessor(checked.row) || ExpiresWithin(checked.row, threshold);
    if (wanted)
      Refresh(checked, ReasonOf(checked.row, threshold), &refreshed);
    else
      NoRefresh(checked, &refreshed);
  }
  const bool was_refreshed = refreshed.new_token != nullptr;
  if (was_refreshed) refreshed.message = "token valid and refreshed: use the new one from now on";
  if (refreshed.reason == kRefreshFailed)
    refreshed.message = psprintf("token valid but not refreshed: %s", refreshed.message);
  Datum values[9] = {};
  bool nulls[9] = {};
  values[0] = BoolGetDatum(is_valid);
  PutIdentity(checked, is_valid, values + 1, nulls + 1);
  nulls[4] = !is_valid;
  values[4] = TimestampTzGetDatum(refreshed.expires_at);
  nulls[5] = !was_refreshed;
  values[5] = PointerGetDatum(refreshed.new_token);
  values[6] = BoolGetDatum(was_refreshed);
  values[7] = Words(refreshed.reason);
  values[8] = Words(refreshed.message);
  PutRow(fcinfo, values, nulls);
  return 0;
}

extern "C" Datum token_refresh_refresh_api_token(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  RequireArgument(fcinfo, 1, "p_threshold_days");
  RequireArgument(fcinfo, 2, "p_force");
  const Micros days = PG_GETARG_INT32(1);
  if (days < 0)
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("argument \"p_threshold_days\" must not be negative")));
  const Micros threshold = Min(days, kMostDays) * kDay;
  CheckedToken checked;
  Refreshed refreshed = {nullptr, 0, kTokenInvalid, nullptr};
  const bool is_valid = Check(TextArgument(fcinfo, 0), nullptr, Purpose::kUse, true, &checked, &refreshed.message);
  if (is_valid) {
    if (HasSuccessor(checked.row) || PG_GETARG_BOOL(2) || ExpiresWithin(checked.row, threshold))
      Refresh(checked, ReasonOf(checked.row, threshold), &refreshed);
    else
      NoRefresh(checked, &refreshed);
  }
  const bool was_refreshed = refreshed.new_token != nullptr;
  if (was_refreshed) refreshed.message = "token refreshed: use the new one from now on";
  Datum values[5] = {};
  bool nulls[5] = {};
  values[0] = BoolGetDatum(is_valid && refreshed.reason != kRefreshFailed);
  nulls[1] = !was_refreshed;
  values[1] = PointerGetDatum(refreshed.new_token);
  nulls[2] = !is_valid;
  values[2] = TimestampTzGetDatum(refreshed.expires_at);
  values[3] = Words(refreshed.reason);
  values[4] = Words(refreshed.message);
  PutRow(fcinfo, values, nulls);
  return 0;
}

extern "C" Datum token_refresh_get_token_refresh_status(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  CheckedToken checked;
  const char* message;
  const bool is_valid = Check(TextArgument(fcinfo, 0), nullptr, Purpose::kStatus, true, &checked, &message);
  const bool recommended =
      is_valid && (HasSuccessor(checked.row) || ExpiresWithin(checked.row, OwnThreshold(checked.row)));
  if (is_valid) message = psprintf("token valid for %d more days", DaysLeft(checked.until));
  Datum values[6] = {};
  bool nulls[6] = {};
  values[0] = BoolGetDatum(is_valid);
  nulls[1] = nulls[2] = !is_valid;
  values[1] = TimestampTzGetDatum(checked.until);
  values[2] = Int32GetDatum(is_valid ? DaysLeft(checked.until) : 0);
  values[3] = BoolGetDatum(recommended);
  values[4] = Words(!is_valid ? kTokenInvalid : recommended ? kExpiringSoon : kNoRefreshNeeded);
  values[5] = Words(message);
  PutRow(fcinfo, values, nulls);
  return 0;
}
