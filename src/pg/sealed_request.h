// Requests to the refresher that carry a secret, such as an authorization code. It goes sealed through a segment of
// dynamic shared memory that lives as long as the session waits: what nobody waits for any more is never begun.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/result.h"
#include "core/secret.h"
#include "pg/shared_state.h"

extern "C" {
#include "storage/dsm.h"
}

namespace token_refresh {

constexpr size_t kMaxRequestPayload = 64 * 1024;

// Sessions. PostgreSQL code: may raise. ----------------------------------------

struct SealedRequest {
  int64_t id;
  RequestTicket ticket;
  dsm_segment* segment;
};

// A new request of that kind, with an id of its own. Raises the errors of RaiseCannotRefresh and RaiseNotAsked
// (demand.h), those of the key ring, and out_of_memory when there is no segment to be had.
void EnterSealedRequest(RequestKind kind, std::string_view payload, SealedRequest* request);
// Waits as long as token_refresh.request_timeout, and lets go of the segment. False on timeout. Raises on cancel and
// terminate.
bool AwaitSealedRequest(SealedRequest* request, DemandResult* result);

// The refresher -----------------------------------------------------------------

// C++ code, outside any transaction. Errors: kUnavailable when the session does not wait any more, or PostgreSQL
// reports an error; as OpenInto.
Result<Secret> ReadPayload(const PendingRequest& request);

}  // namespace token_refresh
