// What the refresher does for sign-ins: presents authorization codes, and stores what comes of them, in transactions of
// its own. Owned by the refresher worker; C++ code, called outside any transaction.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/sign_in.h"
#include "pg/sealed_request.h"
#include "pg/store.h"

namespace token_refresh {

class SignInDesk {
 public:
  SignInDesk(Oid database, PgStore& store, HttpTransport& transport, const Clock& clock);

  void Configure(const HttpDefaults& defaults) { sign_ins_.Configure(defaults); }
  void Take(const PendingRequest& request) { taken_.push_back(request); }
  // Never blocks on the network.
  void Serve(Micros now);
  // When there is something to do even if nothing arrives; INT64_MAX: never.
  Micros NextAt() const;
  // Tokens have been left to be revoked since the last call.
  bool TakeRevocations() { return std::exchange(revocations_left_, false); }
  // Codes whose tokens are not stored yet.
  size_t unfinished() const { return waiting_.size(); }
  // No code goes out any more.
  void BeginDrain();

 private:
  // How a sign-in has ended, until that is stored.
  struct Finished {
    SignInResult result;
    Micros answered_at = 0;
    Micros pause = 0;  // after the last attempt to store it; 0: none yet
    Micros due_at = 0;
  };

  struct Pending {
    PendingRequest request;
    std::string provider;  // empty: it has not been looked at
  };

  void BeginSome();
  DemandResult Begin(Pending& pending);
  void StoreDue(Micros now);
  bool Store(const Finished& finished, bool last_attempt);

  Oid database_;
  PgStore& store_;
  const Clock& clock_;
  SignIns sign_ins_;
  MemoryContext context_;
  bool begun_ = false;
  bool draining_ = false;
  bool revocations_left_ = false;
  std::vector<PendingRequest> taken_;
  std::vector<Pending> waiting_for_room_;
  std::map<uint64_t, int64_t> waiting_;  // from the id of the request to that of the row
  std::vector<Finished> finished_;
};

}  // namespace token_refresh
