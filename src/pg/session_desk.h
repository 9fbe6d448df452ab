// What the refresher does for sessions: it revokes one whose refresh token was presented after its grace period, in a
// transaction of its own, so that no ROLLBACK of whoever presented it takes that back. Owned by the refresher worker;
// C++ code, called outside any transaction.
#pragma once

#include <vector>

#include "core/clock.h"
#include "core/uuid.h"
#include "pg/shared_state.h"

namespace token_refresh {

// The request, for those who make it, too.
RequestSubject ReusedSession(const Uuid& session);

class SessionDesk {
 public:
  explicit SessionDesk(Oid database) : database_(database) {}

  void Take(const RequestSubject& subject);
  void Serve(Micros now);
  // When there is something to do even if nobody asks; INT64_MAX: never.
  Micros NextAt() const;

 private:
  // Until it succeeds: somebody else may hold the row.
  struct Revocation {
    RequestSubject subject;
    Micros pause = 0;  // after the last failure
    Micros due_at = 0;
    bool done = false;
  };

  bool Revoke(const RequestSubject& subject);

  Oid database_;
  std::vector<Revocation> revocations_;
};

}  // namespace token_refresh
