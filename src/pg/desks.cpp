#include "pg/desks.h"

#include <algorithm>

namespace token_refresh {

Desks::Desks(Oid database, PgStore& store, HttpTransport& transport, const Clock& clock)
    : channels_(transport, kChannels),
      api_tokens_(database),
      sessions_(database),
      sign_ins_(database, store, channels_.channel(kSignIns), clock),
      discoveries_(database, channels_.channel(kDiscoveries), clock),
      revocations_(store, channels_.channel(kRevocations), clock) {}

void Desks::Configure(const HttpDefaults& defaults) {
  sign_ins_.Configure(defaults);
  discoveries_.Configure(defaults);
  revocations_.Configure(defaults);
}

void Desks::Take(const PendingRequest& request) {
  switch (request.subject.kind) {
    case RequestKind::kRotateApiToken:
    case RequestKind::kRevokeApiToken:
      return api_tokens_.Take(request.subject);
    case RequestKind::kRevokeSession:
      return sessions_.Take(request.subject);
    case RequestKind::kCompleteAuthorization:
      return sign_ins_.Take(request);
    case RequestKind::kDiscover:
      return discoveries_.Take(request);
    case RequestKind::kRefresh:
      break;
  }
}

void Desks::Serve(Micros now) {
  api_tokens_.Serve(now);
  sessions_.Serve(now);
  sign_ins_.Serve(now);
  discoveries_.Serve();
  if (sign_ins_.TakeRevocations()) revocations_.LookAgain();
  revocations_.Serve(now);
}

Micros Desks::NextAt() const {
  if (has_waiting() || discoveries_.HasWork()) return 0;
  return std::min({api_tokens_.NextAt(), sessions_.NextAt(), sign_ins_.NextAt(), revocations_.NextAt()});
}

void Desks::BeginDrain() {
  sign_ins_.BeginDrain();
  discoveries_.BeginDrain();
  revocations_.BeginDrain();
}

}  // namespace token_refresh
