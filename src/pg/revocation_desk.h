// What the refresher does with the table revocation: tells providers that tokens are to be revoked (RFC 7009), until
// they have heard it or a day is over. Owned by the refresher worker; C++ code, called outside any transaction.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/http_calls.h"
#include "core/revocation.h"
#include "pg/store.h"

namespace token_refresh {

class RevocationDesk {
 public:
  RevocationDesk(PgStore& store, HttpTransport& transport, const Clock& clock);

  void Configure(const HttpDefaults& defaults) { defaults_ = defaults; }
  // There may be others than were known.
  void LookAgain() { look_at_ = 0; }
  void Serve(Micros now);
  // When there is something to do even if nothing arrives.
  Micros NextAt() const { return !MayTake() ? INT64_MAX : store_.revocations_queued() ? 0 : look_at_; }
  void BeginDrain() { draining_ = true; }

 private:
  struct Revocation {
    int64_t id = 0;
    std::string provider, sealed_table, sealed_row, hint, envelope;
    int attempts = 0;
    std::string client_id, client_row, client_envelope;  // of the credential itself, if it has one
  };
  struct Question {
    int64_t id = 0;
    int attempts = 0;
    std::string hint;
    std::shared_ptr<const Provider> provider;
    std::shared_ptr<const Secret> token;
  };
  struct Verdict {
    int64_t id = 0;
    RevocationVerdict verdict;
    int attempts = 0;
  };

  bool MayTake() const;
  std::vector<Revocation> TakeDue(Micros now);
  void Begin(const Revocation& revocation);
  void Ask(const Question& question, bool previous_secret);
  void Settle(const Verdict& verdict);

  PgStore& store_;
  const Clock& clock_;
  HttpCalls calls_;
  HttpDefaults defaults_;
  MemoryContext context_;
  Micros look_at_ = 0;
  bool draining_ = false;
  std::map<int64_t, std::string> under_way_;  // from the id to the provider
  std::vector<Verdict> verdicts_;  // not noted yet
};

}  // namespace token_refresh
