// Everything that the refresher does beside refreshing: one desk each. They share its connections. Owned by the
// refresher worker; C++ code, called outside any transaction.
#pragma once

#include <vector>

#include "core/transport_channels.h"
#include "pg/api_token_desk.h"
#include "pg/discovery_desk.h"
#include "pg/revocation_desk.h"
#include "pg/session_desk.h"
#include "pg/sign_in_desk.h"

namespace token_refresh {

class Desks {
 public:
  Desks(Oid database, PgStore& store, HttpTransport& transport, const Clock& clock);

  // The one of the engine.
  HttpTransport& engine_channel() { return channels_.channel(kEngine); }
  // Answers have been collected that nobody has taken yet.
  bool has_waiting() const { return channels_.has_waiting(); }

  void Configure(const HttpDefaults& defaults);
  // Any request but kRefresh.
  void Take(const PendingRequest& request);
  // Somebody has woken the refresher.
  void LookAgain() { revocations_.LookAgain(); }
  void Serve(Micros now);
  // When there is something to do even if nothing arrives; INT64_MAX: never.
  Micros NextAt() const;
  // What would be lost if the process ended now.
  size_t unfinished() const { return sign_ins_.unfinished(); }
  void BeginDrain();
  // Before the process ends.
  void Leave() { api_tokens_.FlushUse(); }

 private:
  enum Channel { kEngine, kSignIns, kDiscoveries, kRevocations, kChannels };

  TransportChannels channels_;
  ApiTokenDesk api_tokens_;
  SessionDesk sessions_;
  SignInDesk sign_ins_;
  DiscoveryDesk discoveries_;
  RevocationDesk revocations_;
};

}  // namespace token_refresh
