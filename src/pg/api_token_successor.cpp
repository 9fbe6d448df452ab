#include "pg/api_token_successor.h"

#include "core/sealed_box.h"
#include "pg/api_token_check.h"
#include "pg/boundary.h"
#include "pg/demand.h"
#include "pg/keys.h"
#include "pg/owner_scope.h"
#include "pg/settings.h"
#include "pg/shared_state.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"

namespace token_refresh {

namespace {

// A caller whose token is still good does not wait longer for the next one.
constexpr int64_t kPatienceMs = 1000;

constexpr const char* kRevoked = "the token has been revoked";
constexpr const char* kGone = "the token is not valid any more";
constexpr const char* kLater = "another transaction has the token in hand; its successor comes with a later call";
constexpr const char* kBusy = "the refresher did not answer in time; the successor comes with a later call";

Statement rotate_here = {
    "SELECT r.result FROM token_refresh._rotate_api_tokens($1, true) r", 1, {INT8ARRAYOID}, nullptr};
Statement revoke_here = {
    "SELECT token_refresh._revoke_family($1, 'api_token_reused', $2, 'a token was presented after its grace period')",
    2,
    {INT8OID, INT8OID},
    nullptr};

bool MayWrite() { return !XactReadOnly && !RecoveryInProgress() && !IsInParallelMode(); }

// Null: the key is not at hand, or somebody has tampered with the row; message says which.
text* OpenSuccessor(const ApiTokenRow& row, const char** message) {
  char place_row[24];
  pg_lltoa(row.id, place_row);
  std::string_view envelope(VARDATA_ANY(row.successor), VARSIZE_ANY_EXHDR(row.successor));
  text* opened = static_cast<text*>(palloc(VARHDRSZ + envelope.size()));
  size_t size = 0;
  PlainError error;
  const bool ok = CallCpp(error, [&]() -> Status {
    Result<const KeyRing*> ring = LoadKeyRing();
    if (!ring.ok()) return ring.error();
    Result<size_t> length = OpenedSize(envelope);
    if (!length.ok()) return length.error();
    size = *length;
    return OpenInto(**ring, SealedPlace{kApiTokenPlace, place_row, kSuccessorColumn}, envelope, VARDATA(opened));
  });
  if (!ok) {
    *message = pstrdup(error.message);
    return nullptr;
  }
  SET_VARSIZE(opened, VARHDRSZ + size);
  return opened;
}

// The successor that has been handed over already, to whomever.
void GiveHandedOver(const ApiTokenRow& row, Successor* successor) {
  ApiTokenRow next;
  successor->message = kRevoked;
  if (row.revoked || !FetchApiTokenById(row.successor_id, &next) || next.revoked) return;
  successor->message = "the successor of the token cannot be had any more";
  // One that is out of its own grace period would be taken for stolen.
  if (row.successor == nullptr || JudgeApiToken(next) != ApiTokenVerdict::kValid) return;
  successor->token = OpenSuccessor(row, &successor->message);
  successor->expires_at = ApiTokenEnd(next);
}

// Without a key no successor could be kept for the others who hold the token.
bool HasKey(const char** message) {
  PlainError error;
  const bool ok = CallCpp(error, [&]() -> Status {
    Result<const KeyRing*> ring = LoadKeyRing();
    return ring.ok() ? Ok() : Status(ring.error());
  });
  if (!ok) *message = pstrdup(error.message);
  return ok;
}

// What cannot be opened is not handed over, as that would end the old token's life.
bool CanHandOver(const ApiTokenRow& row, const char** message) {
  return row.successor == nullptr ? HasKey(message) : OpenSuccessor(row, message) != nullptr;
}

const char* RotateHere(int64_t id) {
  OwnerScope scope;
  EnterOwnerScope(&scope);
  Datum values[] = {MakeArray(1, INT8OID, [id](int, bool*) { return Int64GetDatum(id); })};
  const bool answered = Execute(&rotate_here, values, false) == 1;
  const char* result = answered ? SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1) : nullptr;
  const bool done = result != nullptr && strcmp(result, "done") == 0;
  const bool locked = result != nullptr && strcmp(result, "locked") == 0;
  LeaveOwnerScope(&scope);
  return done ? nullptr : locked ? kLater : kGone;
}

const char* RotateByRefresher(int64_t id) {
  RequestTicket ticket;
  DemandResult result = DemandResult::kInternal;
  if (!EnterRequest(MyDatabaseId, {RequestKind::kRotateApiToken, id}, 0, &ticket)) return kBusy;
  const int64_t patience_ms = Min(static_cast<int64_t>(Settings::request_timeout_ms), kPatienceMs);
  if (!AwaitRequest(ticket, patience_ms, &result)) return kBusy;
  if (result == DemandResult::kInternal) return DemandMessage(result);
  if (result == DemandResult::kNotFound) return kGone;
  return IsFresh(result) ? nullptr : result == DemandResult::kShuttingDown ? kBusy : kLater;
}

}  // namespace

void ObtainSuccessor(const ApiTokenRow& row, Successor* successor) {
  *successor = {};
  if (row.handed_over) return GiveHandedOver(row, successor);
  if (RecoveryInProgress()) {
    successor->message = "this server is a standby; the successor comes with a call on the primary";
    return;
  }
  if (!MayWrite()) {
    successor->message = "the transaction is read-only; the successor comes with a call that may write";
    return;
  }
  if (!CanHandOver(row, &successor->message)) return;
  const bool here = row.written_by_this_transaction || !CanRefresh();
  successor->message = here ? RotateHere(row.id) : RotateByRefresher(row.id);
  if (successor->message != nullptr) return;
  ApiTokenRow now;
  successor->message = kLater;
  if (here) CommandCounterIncrement();
  if (FetchApiTokenById(row.id, &now) && now.handed_over) GiveHandedOver(now, successor);
}

void ReportReuse(const ApiTokenRow& row) {
  RequestTicket ticket;
  const bool entered = CanRefresh() && !row.written_by_this_transaction &&
                       EnterRequest(MyDatabaseId, {RequestKind::kRevokeApiToken, row.id}, 0, &ticket);
  if (entered) {
    DemandResult result;
    AwaitRequest(ticket, kPatienceMs, &result);
    return;
  }
  if (!MayWrite()) return;
  OwnerScope scope;
  EnterOwnerScope(&scope);
  Datum values[] = {Int64GetDatum(row.family), Int64GetDatum(row.id)};
  Execute(&revoke_here, values, false);
  LeaveOwnerScope(&scope);
}

}  // namespace token_refresh
