// What the refresher does for API tokens: rotates and revokes them for sessions that wait, in transactions of its own,
// and writes down their use. Owned by the refresher worker; C++ code, called outside any transaction.
#pragma once

#include <vector>

#include "core/clock.h"
#include "pg/shared_state.h"

namespace token_refresh {

class ApiTokenDesk {
 public:
  explicit ApiTokenDesk(Oid database) : database_(database) {}

  void Take(const RequestSubject& subject);
  // Does what was taken, and what is due by itself.
  void Serve(Micros now);
  // When there is something to do even if nobody asks; INT64_MAX: never.
  Micros NextAt() const;
  // Before the process ends.
  void FlushUse();

 private:
  // Until it succeeds: somebody else may hold a row of the family.
  struct Revocation {
    int64_t id;
    Micros pause;  // after the last failure; 0: not tried yet
    Micros due_at;
  };

  void Rotate();
  bool RotateSome(const int64_t* ids, int count);
  void RevokeDue(Micros now);
  bool Revoke(int64_t id);
  bool FlushSome();
  void Tidy(Micros now);

  Oid database_;
  std::vector<int64_t> rotations_;
  std::vector<Revocation> revocations_;
  Micros tidy_at_ = 0;
};

}  // namespace token_refresh
