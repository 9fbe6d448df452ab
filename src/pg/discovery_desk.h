// What the refresher does for discover_provider: asks issuers for their metadata, and commits what they answer. Owned
// by the refresher worker; C++ code, called outside any transaction.
#pragma once

#include <vector>

#include "core/discovery.h"
#include "pg/sealed_request.h"

namespace token_refresh {

class DiscoveryDesk {
 public:
  DiscoveryDesk(Oid database, HttpTransport& transport, const Clock& clock)
      : database_(database), discoveries_(transport, clock) {}

  void Configure(const HttpDefaults& defaults) { discoveries_.Configure(defaults); }
  void Take(const PendingRequest& request) { taken_.push_back(request); }
  void Serve();
  bool HasWork() const { return !taken_.empty(); }
  // Nobody loses anything by not hearing the rest.
  void BeginDrain() { discoveries_.Abandon(); }

 private:
  bool Begin(const PendingRequest& request);
  void Finish(const DiscoveryResult& result);

  Oid database_;
  Discoveries discoveries_;
  std::vector<PendingRequest> taken_;
};

}  // namespace token_refresh
