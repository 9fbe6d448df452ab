// SQL function _report_session_reuse: hands a session whose refresh token was presented again to the refresher.
#include <cstring>

#include "pg/demand.h"
#include "pg/session_desk.h"
#include "pg/session_rows.h"
#include "pg/shared_state.h"

extern "C" {
#include "utils/uuid.h"

PG_FUNCTION_INFO_V1(token_refresh_report_session_reuse);
}

namespace token_refresh {

namespace {

// Whoever presented the token gets nothing anyway, so he does not wait longer to see it done.
constexpr int64_t kPatienceMs = 1000;

// True: it is done, or the refresher goes on trying.
bool IsInHand(DemandResult result) {
  return result == DemandResult::kRefreshed || result == DemandResult::kAlreadyRefreshed ||
         result == DemandResult::kLocked;
}

bool Report(const Uuid& session, bool wait) {
  RequestTicket ticket;
  DemandResult result = DemandResult::kInternal;
  if (!CanRefresh() || IsOwnSession(session)) return false;
  if (!EnterRequest(MyDatabaseId, ReusedSession(session), 0, &ticket)) return false;
  return wait && AwaitRequest(ticket, kPatienceMs, &result) && IsInHand(result);
}

}  // namespace

}  // namespace token_refresh

extern "C" Datum token_refresh_report_session_reuse(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  Uuid session;
  memcpy(session.data(), PG_GETARG_UUID_P(0)->data, session.size());
  PG_RETURN_BOOL(Report(session, PG_GETARG_BOOL(1)));
}
