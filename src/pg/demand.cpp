#include "pg/demand.h"

#include "pg/shared_state.h"
#include "pg/workers.h"

namespace token_refresh {

namespace {

RefresherPhase PhaseHere() {
  DatabaseEntry entry;
  return GetDatabaseEntry(MyDatabaseId, &entry) ? entry.phase : RefresherPhase::kUnknown;
}

}  // namespace

bool CanRefresh() {
  // The refresher itself, in a trigger or a function of a table's owner, cannot wait for itself.
  return !AmRefresher() && !RecoveryInProgress() && SharedStateAvailable() && LauncherRunning() &&
         PhaseHere() != RefresherPhase::kExcluded;
}

void RaiseCannotRefresh() {
  if (RecoveryInProgress())
    ereport(ERROR, (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION), errmsg("cannot refresh tokens on a standby server"),
                    errhint("Ask the primary; what it refreshes arrives here by replication.")));
  if (!SharedStateAvailable())
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("cannot refresh tokens: token_refresh is not preloaded"),
                    errhint("Add token_refresh to shared_preload_libraries and restart the server.")));
  if (PhaseHere() == RefresherPhase::kExcluded)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("cannot refresh tokens: token_refresh.databases leaves out database \"%s\"",
                           get_database_name(MyDatabaseId)),
                    errhint("Add the database to token_refresh.databases and reload the configuration.")));
  ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                  errmsg("cannot refresh tokens: the launcher of token_refresh is not running"),
                  errhint("It starts with the server; see the server log.")));
  pg_unreachable();
}

DemandOutcome RefreshAndWait(const ScheduleRow& row, int64_t timeout_ms) {
  DemandOutcome outcome = {DemandEnd::kCannotRefresh, DemandResult::kInternal};
  if (!CanRefresh()) return outcome;
  outcome.end = DemandEnd::kOwnWrite;
  if (row.written_by_this_transaction) return outcome;
  outcome.end = DemandEnd::kNoSlot;
  RequestTicket ticket;
  if (!EnterRequest(MyDatabaseId, {RequestKind::kRefresh, row.id}, row.generation, &ticket)) return outcome;
  const bool answered = AwaitRequest(ticket, timeout_ms, &outcome.result);
  outcome.end = answered ? DemandEnd::kAnswered : DemandEnd::kTimedOut;
  return outcome;
}

bool WasAsked(const DemandOutcome& outcome) {
  return outcome.end == DemandEnd::kAnswered || outcome.end == DemandEnd::kTimedOut;
}

void RaiseNotAsked(const DemandOutcome& outcome) {
  if (outcome.end == DemandEnd::kOwnWrite)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE),
                    errmsg("cannot refresh a credential that this transaction has changed"),
                    errhint("Commit first: the refresher sees committed rows only.")));
  if (outcome.end == DemandEnd::kNoSlot)
    ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                    errmsg("too many credentials are being waited for"),
                    errhint("Raise token_refresh.request_slots, or try again later.")));
  RaiseCannotRefresh();
}

const char* DemandResultName(DemandResult result) {
  switch (result) {
    case DemandResult::kRefreshed:
      return "refreshed";
    case DemandResult::kAlreadyRefreshed:
      return "already_refreshed";
    case DemandResult::kParked:
      return "parked";
    case DemandResult::kSuperseded:
      return "superseded";
    case DemandResult::kTransient:
    case DemandResult::kProviderFailing:
      return "transient";
    case DemandResult::kRateLimited:
      return "rate_limited";
    case DemandResult::kReauth:
      return "reauth";
    case DemandResult::kClientConfig:
      return "client_config";
    case DemandResult::kTooEarly:
      return "too_early";
    case DemandResult::kProviderDisabled:
      return "provider_disabled";
    case DemandResult::kNotFound:
      return "not_found";
    case DemandResult::kLocked:
      return "locked";
    case DemandResult::kNoRefreshToken:
      return "no_refresh_token";
    case DemandResult::kUnreadable:
      return "unreadable";
    case DemandResult::kLeftAlone:
      return "left_alone";
    case DemandResult::kShuttingDown:
      return "shutting_down";
    case DemandResult::kInternal:
    // Of requests that are no refresh:
    case DemandResult::kSpent:
    case DemandResult::kExpired:
    case DemandResult::kOtherProvider:
    case DemandResult::kFailed:
      break;
  }
  return "internal";
}

bool IsFresh(DemandResult result) {
  return result == DemandResult::kRefreshed || result == DemandResult::kAlreadyRefreshed ||
         result == DemandResult::kParked || result == DemandResult::kSuperseded;
}

bool IsFresh(const DemandOutcome& outcome) {
  return outcome.end == DemandEnd::kAnswered && IsFresh(outcome.result);
}

const char* DemandFailure(DemandResult result) {
  if (IsFresh(result)) return nullptr;
  switch (result) {
    case DemandResult::kRateLimited:
    case DemandResult::kReauth:
    case DemandResult::kClientConfig:
    case DemandResult::kTooEarly:
      return DemandResultName(result);
    case DemandResult::kProviderDisabled:
    case DemandResult::kUnreadable:
    case DemandResult::kLeftAlone:
      return "client_config";
    case DemandResult::kNoRefreshToken:
      return "reauth";
    default:
      return "transient";
  }
}

const char* DemandMessage(DemandResult result) {
  switch (result) {
    case DemandResult::kProviderFailing:
      return "the provider keeps failing and is being probed; try again later";
    case DemandResult::kRateLimited:
      return "the provider asks to wait";
    case DemandResult::kTooEarly:
      return "the provider does not allow another refresh yet";
    case DemandResult::kProviderDisabled:
      return "the provider is disabled";
    case DemandResult::kNotFound:
      return "the credential is gone, or not committed yet";
    case DemandResult::kLocked:
      return "another transaction holds the credential; try again when it has ended";
    case DemandResult::kNoRefreshToken:
      return "there is no refresh token; the user must sign in again";
    case DemandResult::kLeftAlone:
      return "the filter of the table leaves this row alone";
    case DemandResult::kShuttingDown:
      return "the refresher is stopping; try again";
    case DemandResult::kInternal:
      return "the refresher could not do it; see the server log";
    default:
      return nullptr;
  }
}

const char* DemandMessage(const DemandOutcome& outcome) {
  switch (outcome.end) {
    case DemandEnd::kAnswered:
      return DemandMessage(outcome.result);
    case DemandEnd::kTimedOut:
      return "timed out waiting for the provider; the refresh goes on";
    case DemandEnd::kOwnWrite:
      return "this transaction has changed the credential; it can be refreshed after COMMIT";
    case DemandEnd::kNoSlot:
      return "too many credentials are being waited for; try again later";
    case DemandEnd::kCannotRefresh:
      break;
  }
  return nullptr;
}

}  // namespace token_refresh
