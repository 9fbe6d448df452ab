// SQL functions that read and refresh credentials: get_access_token, get_token,
// refresh_credential, get_access_token_from, refresh_row, _refresh_many.
#include "pg/arguments.h"
#include "pg/boundary.h"
#include "pg/read_attached.h"
#include "pg/read_token.h"
#include "pg/settings.h"
#include "pg/shared_state.h"

extern "C" {
PG_FUNCTION_INFO_V1(token_refresh_get_access_token);
PG_FUNCTION_INFO_V1(token_refresh_get_token);
PG_FUNCTION_INFO_V1(token_refresh_refresh_credential);
PG_FUNCTION_INFO_V1(token_refresh_get_access_token_from);
PG_FUNCTION_INFO_V1(token_refresh_refresh_row);
PG_FUNCTION_INFO_V1(token_refresh_refresh_many);
}

namespace token_refresh {

namespace {

// How many requests _refresh_many keeps open at once.
constexpr int kWindow = 256;

void ReadMinValidity(FunctionCallInfo fcinfo, int argument, TokenRequestArgs* args) {
  if (PG_NARGS() <= argument || PG_ARGISNULL(argument)) return;
  args->has_min_validity = true;
  args->min_validity = FromInterval(PG_GETARG_INTERVAL_P(argument));
  if (args->min_validity < 0)
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("argument \"min_validity\" must not be negative")));
}

void ReadArgs(FunctionCallInfo fcinfo, TokenRequestArgs* args) {
  *args = {};
  args->provider = RequireText(fcinfo, 0, "provider");
  args->subject = RequireText(fcinfo, 1, "subject");
  args->label = RequireText(fcinfo, 2, "label");
  ReadMinValidity(fcinfo, 3, args);
}

void ReadRowArgs(FunctionCallInfo fcinfo, TokenRequestArgs* args) {
  *args = {};
  RequireArgument(fcinfo, 0, "table_name");
  args->row_key = RequireText(fcinfo, 1, "row_key");
  ReadMinValidity(fcinfo, 2, args);
  args->table = RequireAttached(PG_GETARG_OID(0));
}

Datum TextOrNull(const char* value, bool* is_null) {
  *is_null = value == nullptr;
  return *is_null ? 0 : CStringGetTextDatum(value);
}

void PutRow(FunctionCallInfo fcinfo, Datum* values, bool* nulls) {
  ReturnSetInfo* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
  tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

// A request of _refresh_many.
struct WindowRequest {
  RequestTicket ticket;
  TimestampTz until;  // how long its result is waited for; 0: it found no slot
};

bool AnyAnswered(const WindowRequest* requests, int count) {
  DemandResult result;
  for (int i = 0; i < count; i++)
    if (requests[i].until != 0 && AwaitRequest(requests[i].ticket, 0, &result)) return true;
  return false;
}

void PutRefreshAnswer(FunctionCallInfo fcinfo, const TokenRequestArgs& args) {
  RefreshAnswer answer;
  InitMaterializedSRF(fcinfo, 0);
  RefreshNow(args, &answer);
  Datum values[4];
  bool nulls[4] = {};
  values[0] = BoolGetDatum(answer.success);
  nulls[1] = !answer.expires;
  values[1] = TimestampTzGetDatum(answer.expires_at);
  values[2] = TextOrNull(answer.failure, &nulls[2]);
  values[3] = TextOrNull(answer.message, &nulls[3]);
  PutRow(fcinfo, values, nulls);
}

// A sliding window over the ids: results come back in order, requests run ahead. Each is waited for as long as
// request_timeout from its beginning. When for that long no result has come at all, the rest is given up.
void RefreshWindow(FunctionCallInfo fcinfo, const ScheduleRow* rows, int count) {
  const int window = Min(kWindow, Max(1, Settings::request_slots / 4));
  const int timeout_ms = Settings::request_timeout_ms;
  WindowRequest* requests = static_cast<WindowRequest*>(palloc0(sizeof(WindowRequest) * Max(count, 1)));
  TimestampTz stalled_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
  bool stalled = false;
  int next = 0;
  for (int i = 0; i < count; i++) {
    for (; !stalled && next < count && next < i + window; next++)
      if (EnterRequest(MyDatabaseId, {RequestKind::kRefresh, rows[next].id}, rows[next].generation, &requests[next].ticket))
        requests[next].until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
    DemandResult result = DemandResult::kInternal;
    const bool entered = requests[i].until != 0;
    const long wait_ms = entered ? TimestampDifferenceMilliseconds(GetCurrentTimestamp(), requests[i].until) : 0;
    const bool answered = entered && AwaitRequest(requests[i].ticket, wait_ms, &result);
    const TimestampTz now = GetCurrentTimestamp();
    if (answered || (!stalled && now >= stalled_at && AnyAnswered(&requests[i + 1], next - i - 1)))
      stalled_at = TimestampTzPlusMilliseconds(now, timeout_ms);
    stalled = stalled || now >= stalled_at;
    const char* name = answered ? DemandResultName(result) : entered || stalled ? "timeout" : "no_request_slot";
    Datum values[] = {Int64GetDatum(rows[i].id), CStringGetTextDatum(name)};
    bool nulls[] = {false, false};
    PutRow(fcinfo, values, nulls);
  }
}

}  // namespace

}  // namespace token_refresh

extern "C" Datum token_refresh_get_access_token(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  TokenRequestArgs args;
  TokenAnswer answer;
  ReadArgs(fcinfo, &args);
  ObtainToken(args, &answer);
  if (answer.access_token == nullptr) PG_RETURN_NULL();
  PG_RETURN_TEXT_P(answer.access_token);
}

extern "C" Datum token_refresh_get_token(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  InitMaterializedSRF(fcinfo, 0);
  TokenRequestArgs args;
  TokenAnswer answer;
  ReadArgs(fcinfo, &args);
  ObtainToken(args, &answer);
  Datum values[7];
  bool nulls[7] = {};
  nulls[0] = answer.access_token == nullptr;
  values[0] = nulls[0] ? 0 : PointerGetDatum(answer.access_token);
  values[1] = TextOrNull(answer.token_type, &nulls[1]);
  nulls[2] = !answer.stored || !answer.expires;
  values[2] = TimestampTzGetDatum(answer.expires_at);
  values[3] = TextOrNull(answer.scope, &nulls[3]);
  values[4] = TextOrNull(answer.status, &nulls[4]);
  values[5] = BoolGetDatum(answer.was_refreshed);
  values[6] = TextOrNull(answer.message, &nulls[6]);
  PutRow(fcinfo, values, nulls);
  return 0;
}

extern "C" Datum token_refresh_get_access_token_from(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  TokenRequestArgs args;
  TokenAnswer answer;
  ReadRowArgs(fcinfo, &args);
  ObtainToken(args, &answer);
  if (answer.access_token == nullptr) PG_RETURN_NULL();
  PG_RETURN_TEXT_P(answer.access_token);
}

extern "C" Datum token_refresh_refresh_credential(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  TokenRequestArgs args;
  ReadArgs(fcinfo, &args);
  PutRefreshAnswer(fcinfo, args);
  return 0;
}

extern "C" Datum token_refresh_refresh_row(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  TokenRequestArgs args;
  ReadRowArgs(fcinfo, &args);
  PutRefreshAnswer(fcinfo, args);
  return 0;
}

extern "C" Datum token_refresh_refresh_many(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  InitMaterializedSRF(fcinfo, 0);
  ArrayType* array = PG_GETARG_ARRAYTYPE_P(0);
  Datum* ids;
  bool* nulls;
  int count;
  deconstruct_array(array, INT8OID, sizeof(int64), true, TYPALIGN_DOUBLE, &ids, &nulls, &count);
  if (count == 0) return 0;
  if (!CanRefresh()) RaiseCannotRefresh();
  ScheduleRow* rows = static_cast<ScheduleRow*>(palloc(sizeof(ScheduleRow) * count));
  int wanted = 0;
  Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
  for (int i = 0; i < count; i++)
    if (!nulls[i] && FetchScheduleById(DatumGetInt64(ids[i]), snapshot, &rows[wanted])) wanted++;
  UnregisterSnapshot(snapshot);
  RefreshWindow(fcinfo, rows, wanted);
  return 0;
}
