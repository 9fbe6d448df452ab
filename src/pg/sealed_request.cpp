#include "pg/sealed_request.h"

#include "core/sealed_box.h"
#include "pg/boundary.h"
#include "pg/demand.h"
#include "pg/keys.h"
#include "pg/settings.h"

namespace token_refresh {

namespace {

constexpr const char* kRequestPlace = "token_refresh.request";
constexpr const char* kPayloadColumn = "payload";

// At the beginning of the segment; the envelope follows.
struct Header {
  size_t size;
};

char* EnvelopeIn(dsm_segment* segment) { return static_cast<char*>(dsm_segment_address(segment)) + sizeof(Header); }

int64_t NewRequestId() {
  int64_t id;
  if (!pg_strong_random(&id, sizeof(id)))
    ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("there is no randomness to be had")));
  return id & PG_INT64_MAX;
}

void SealPayload(int64_t id, std::string_view payload, char* envelope) {
  char row[24];
  pg_lltoa(id, row);
  RunCpp([&]() -> Status {
    Result<const KeyRing*> ring = LoadKeyRing();
    if (!ring.ok()) return ring.error();
    return SealInto(**ring, SealedPlace{kRequestPlace, row, kPayloadColumn}, payload, envelope);
  });
}

// The envelope, palloc'd; null when the segment has gone with its session.
char* FetchPayload(dsm_handle handle, size_t* size) {
  dsm_segment* segment = dsm_attach(handle);
  if (segment == nullptr) return nullptr;
  *size = static_cast<Header*>(dsm_segment_address(segment))->size;
  if (*size > SealedSize(kMaxRequestPayload) || *size > dsm_segment_map_length(segment) - sizeof(Header))
    elog(ERROR, "token_refresh: the payload of a request is damaged");
  char* envelope = static_cast<char*>(palloc(*size));
  memcpy(envelope, EnvelopeIn(segment), *size);
  dsm_detach(segment);
  return envelope;
}

// Between PostgreSQL code and C++ that may throw.
bool Append(std::string* out, const char* bytes, size_t size) noexcept {
  try {
    out->append(bytes, size);
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

}  // namespace

void EnterSealedRequest(RequestKind kind, std::string_view payload, SealedRequest* request) {
  if (!CanRefresh()) RaiseCannotRefresh();
  request->id = NewRequestId();
  const size_t size = SealedSize(payload.size());
  request->segment = dsm_create(sizeof(Header) + size, 0);
  static_cast<Header*>(dsm_segment_address(request->segment))->size = size;
  SealPayload(request->id, payload, EnvelopeIn(request->segment));
  const dsm_handle handle = dsm_segment_handle(request->segment);
  if (!EnterRequest(MyDatabaseId, {kind, request->id}, 0, &request->ticket, handle))
    RaiseNotAsked({DemandEnd::kNoSlot, DemandResult::kInternal});
}

bool AwaitSealedRequest(SealedRequest* request, DemandResult* result) {
  const bool answered = AwaitRequest(request->ticket, Settings::request_timeout_ms, result);
  dsm_detach(request->segment);
  return answered;
}

Result<Secret> ReadPayload(const PendingRequest& request) {
  std::string envelope;
  std::string* out = &envelope;
  bool gone = false;
  const auto error = RunPostgres("token_refresh: taking a request", [&gone, out, &request] {
    size_t size = 0;
    const char* bytes = FetchPayload(request.payload, &size);
    gone = bytes == nullptr || !Append(out, bytes, size);
  });
  if (error || gone) return Error{ErrorCode::kUnavailable, "the session does not wait any more", ""};
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return ring.error();
  const std::string row = std::to_string(request.subject.id);
  return Open(**ring, SealedPlace{kRequestPlace, row, kPayloadColumn}, envelope);
}

}  // namespace token_refresh
