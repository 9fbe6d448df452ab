#include "pg/authorization_rows.h"

#include "pg/catalog.h"
#include "pg/index_lookup.h"

extern "C" {
#include "utils/fmgroids.h"
}

namespace token_refresh {

namespace {

// Column numbers, as the install script creates them.
enum AuthorizationColumn {
  kId = 1,
  kProvider = 3,
  kUsedAt = 13,
  kFailure = 14,
  kMessage = 15,
  kCredentialId = 16,
  kOwner = 17,
  kClaims = 18,
  kTakenBy = 19
};
enum DiscoveryColumn { kOptions = 3, kDiscoveryMessage = 4 };

template <class Read>
bool FetchById(const char* table, const char* index, int64_t id, Read read) {
  ScanKeyData key;
  EqualKey(&key, 1, InvalidOid, F_INT8EQ, Int64GetDatum(id));
  Snapshot snapshot = RegisterFreshSnapshot(ExtensionRelation(table));
  const bool found = FetchOne(ExtensionRelation(table), ExtensionRelation(index), &key, 1, snapshot, read);
  UnregisterSnapshot(snapshot);
  return found;
}

bool IsNull(TupleTableSlot* slot, int column) {
  bool is_null;
  GetColumn(slot, column, &is_null);
  return is_null;
}

Datum CopyJson(TupleTableSlot* slot, int column) {
  bool is_null;
  const Datum value = GetColumn(slot, column, &is_null);
  return is_null ? 0 : PointerGetDatum(DatumGetJsonbPCopy(value));
}

}  // namespace

bool FindAuthorization(bytea* state_hash, AuthorizationKey* found) {
  ScanKeyData key;
  EqualKey(&key, 1, InvalidOid, F_BYTEAEQ, PointerGetDatum(state_hash));
  Snapshot snapshot = RegisterFreshSnapshot(ExtensionRelation("authorization_request"));
  const bool there = FetchOne(ExtensionRelation("authorization_request"),
                              ExtensionRelation("authorization_request_state"), &key, 1, snapshot,
                              [found](TupleTableSlot* slot) {
                                found->id = GetInt64(slot, kId);
                                found->provider = CopyText(slot, kProvider);
                                found->own_write = WrittenByThisTransaction(slot);
                              });
  UnregisterSnapshot(snapshot);
  return there;
}

bool FetchAuthorizationResult(int64_t id, AuthorizationResult* result) {
  return FetchById("authorization_request", "authorization_request_pkey", id, [result](TupleTableSlot* slot) {
    result->used = !IsNull(slot, kUsedAt);
    result->taken_by = IsNull(slot, kTakenBy) ? 0 : GetInt64(slot, kTakenBy);
    result->ended = !IsNull(slot, kFailure) || !IsNull(slot, kCredentialId);
    result->provider = CopyText(slot, kProvider);
    result->failure = CopyText(slot, kFailure);
    result->message = CopyText(slot, kMessage);
    result->credential_id = GetInt64(slot, kCredentialId);
    result->owner = CopyText(slot, kOwner);
    result->claims = CopyJson(slot, kClaims);
  });
}

bool FetchDiscoveryAnswer(int64_t id, DiscoveryAnswer* answer) {
  return FetchById("discovery", "discovery_pkey", id, [answer](TupleTableSlot* slot) {
    answer->options = CopyJson(slot, kOptions);
    answer->message = CopyText(slot, kDiscoveryMessage);
    answer->found = answer->message == nullptr;
  });
}

}  // namespace token_refresh
