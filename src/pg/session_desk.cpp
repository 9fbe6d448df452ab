#include "pg/session_desk.h"

#include <algorithm>
#include <cstring>

#include "pg/boundary.h"
#include "pg/failure_log.h"
#include "pg/save_arrays.h"
#include "pg/statements.h"

extern "C" {
#include "utils/uuid.h"
}

namespace token_refresh {

namespace {

// A row that somebody holds is tried again after 1, 2, 4 ... 60 s, few at a time and without much patience, as others
// are waiting.
constexpr Micros kFirstPause = kSecond;
constexpr Micros kLongestPause = kMinute;
constexpr int kRevokeAtOnce = 4;
constexpr const char* kLockTimeout = "20ms";

Statement end_reused = {"SELECT token_refresh._end_reused_session($1, 'refresher')", 1, {UUIDOID}, nullptr};

pg_uuid_t SessionOf(const RequestSubject& subject) {
  pg_uuid_t session;
  static_assert(sizeof(session.data) == sizeof(subject.id) + sizeof(subject.rest_of_id));
  memcpy(session.data, &subject.id, sizeof(subject.id));
  memcpy(session.data + sizeof(subject.id), &subject.rest_of_id, sizeof(subject.rest_of_id));
  return session;
}

}  // namespace

RequestSubject ReusedSession(const Uuid& session) {
  RequestSubject subject = {RequestKind::kRevokeSession, 0, 0};
  static_assert(sizeof(session) == sizeof(subject.id) + sizeof(subject.rest_of_id));
  memcpy(&subject.id, session.data(), sizeof(subject.id));
  memcpy(&subject.rest_of_id, session.data() + sizeof(subject.id), sizeof(subject.rest_of_id));
  return subject;
}

void SessionDesk::Take(const RequestSubject& subject) {
  for (const Revocation& known : revocations_)
    if (known.subject == subject) return FinishRequest(database_, subject, DemandResult::kLocked);
  revocations_.push_back({.subject = subject});
}

// One by one, so that a row that somebody holds keeps no other session alive.
void SessionDesk::Serve(Micros now) {
  int tried = 0;
  for (Revocation& revocation : revocations_) {
    if (revocation.due_at > now) continue;
    if (tried++ == kRevokeAtOnce) break;
    revocation.done = Revoke(revocation.subject);
    FinishRequest(database_, revocation.subject, revocation.done ? DemandResult::kRefreshed : DemandResult::kLocked);
    revocation.pause = std::clamp(2 * revocation.pause, kFirstPause, kLongestPause);
    revocation.due_at = now + revocation.pause;
  }
  std::erase_if(revocations_, [](const Revocation& revocation) { return revocation.done; });
}

Micros SessionDesk::NextAt() const {
  Micros next = INT64_MAX;
  for (const Revocation& revocation : revocations_) next = std::min(next, revocation.due_at);
  return next;
}

bool SessionDesk::Revoke(const RequestSubject& subject) {
  pg_uuid_t session = SessionOf(subject);
  auto error = RunPostgres("token_refresh: sessions", [&session] {
    // The caller may take what follows for done.
    CommitToDisk();
    set_config_option("lock_timeout", kLockTimeout, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
    Datum values[] = {UUIDPGetDatum(&session)};
    Execute(&end_reused, values, false);
  });
  if (error && error->sqlstate != ERRCODE_LOCK_NOT_AVAILABLE) LogFailure("revoking a session", *error);
  return !error;
}

}  // namespace token_refresh
