#include "pg/api_token_rows.h"

#include "pg/catalog.h"
#include "pg/index_lookup.h"

extern "C" {
#include "utils/fmgroids.h"
}

namespace token_refresh {

namespace {

// Column numbers, as the install script creates them.
enum ApiTokenColumn {
  kId = 1,
  kExpiresAt = 2,
  kRevokedAt = 3,
  kRetiresAt = 4,
  kSuccessorId = 5,
  kLifetime = 6,
  kTokenHash = 7,
  kScope = 8,
  kUserHk = 9,
  kTenantHk = 10,
  kSuccessor = 11,
  kFamily = 12,
};

void Read(TupleTableSlot* slot, ApiTokenRow* row) {
  bool is_null;
  TimestampTz revoked_at;
  row->id = GetInt64(slot, kId);
  GetTime(slot, kExpiresAt, &row->expires_at);
  row->revoked = GetTime(slot, kRevokedAt, &revoked_at);
  row->handed_over = GetTime(slot, kRetiresAt, &row->retires_at);
  row->successor_id = GetInt64(slot, kSuccessorId);
  row->lifetime = static_cast<Interval*>(palloc(sizeof(Interval)));
  *row->lifetime = *DatumGetIntervalP(GetColumn(slot, kLifetime, &is_null));
  row->scope = DatumGetArrayTypePCopy(GetColumn(slot, kScope, &is_null));
  row->user_hk = CopyBytes(slot, kUserHk);
  row->tenant_hk = CopyBytes(slot, kTenantHk);
  row->successor = CopyBytes(slot, kSuccessor);
  row->family = GetInt64(slot, kFamily);
  row->written_by_this_transaction = WrittenByThisTransaction(slot);
}

bool Fetch(const char* index, ScanKey key, Snapshot snapshot, ApiTokenRow* row) {
  return FetchOne(ExtensionRelation("api_token"), ExtensionRelation(index), key, 1, snapshot,
                  [row](TupleTableSlot* slot) { Read(slot, row); });
}

bool FetchFresh(const char* index, ScanKey key, ApiTokenRow* row) {
  Snapshot snapshot = RegisterFreshSnapshot(ExtensionRelation("api_token"));
  const bool found = Fetch(index, key, snapshot, row);
  UnregisterSnapshot(snapshot);
  return found;
}

}  // namespace

bool FetchApiToken(bytea* hash, bool fresh, ApiTokenRow* row) {
  ScanKeyData key;
  EqualKey(&key, 1, InvalidOid, F_BYTEAEQ, PointerGetDatum(hash));
  return fresh ? FetchFresh("api_token_hash", &key, row) : Fetch("api_token_hash", &key, GetActiveSnapshot(), row);
}

bool FetchApiTokenById(int64_t id, ApiTokenRow* row) {
  ScanKeyData key;
  EqualKey(&key, 1, InvalidOid, F_INT8EQ, Int64GetDatum(id));
  return FetchFresh("api_token_pkey", &key, row);
}

}  // namespace token_refresh
