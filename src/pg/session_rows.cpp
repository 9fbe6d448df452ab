#include "pg/session_rows.h"

#include "pg/catalog.h"
#include "pg/index_lookup.h"

extern "C" {
#include "catalog/pg_collation.h"
#include "utils/fmgroids.h"
#include "utils/uuid.h"
}

namespace token_refresh {

namespace {

// Column numbers, as the install script creates them.
enum SessionColumn { kJwtId = 2, kAccount = 3, kExpiresAt = 4, kRevokedAt = 5 };
enum SessionSecretColumn { kSecret = 2 };

void Read(TupleTableSlot* slot, SessionRow* row) {
  bool is_null;
  TimestampTz revoked_at;
  memcpy(row->account.data(), DatumGetUUIDP(GetColumn(slot, kAccount, &is_null))->data, row->account.size());
  GetTime(slot, kExpiresAt, &row->expires_at);
  row->revoked = GetTime(slot, kRevokedAt, &revoked_at);
}

bool Fetch(ScanKey key, Snapshot snapshot, SessionRow* row) {
  return FetchOne(ExtensionRelation("session"), ExtensionRelation("session_jwt"), key, 1, snapshot,
                  [row](TupleTableSlot* slot) { Read(slot, row); });
}

}  // namespace

bool FetchSession(const Uuid& jwt_id, SessionRow* row) {
  pg_uuid_t id;
  static_assert(sizeof(id.data) == sizeof(Uuid));
  memcpy(id.data, jwt_id.data(), jwt_id.size());
  ScanKeyData key;
  EqualKey(&key, 1, InvalidOid, F_UUID_EQ, UUIDPGetDatum(&id));
  if (!IsolationUsesXactSnapshot() && Fetch(&key, GetActiveSnapshot(), row)) return true;
  Snapshot snapshot = RegisterFreshSnapshot(ExtensionRelation("session"));
  const bool found = Fetch(&key, snapshot, row);
  UnregisterSnapshot(snapshot);
  return found;
}

bool IsOwnSession(const Uuid& id) {
  pg_uuid_t session;
  memcpy(session.data, id.data(), id.size());
  ScanKeyData key;
  EqualKey(&key, 1, InvalidOid, F_UUID_EQ, UUIDPGetDatum(&session));
  bool own = false;
  FetchOne(ExtensionRelation("session"), ExtensionRelation("session_pkey"), &key, 1, GetActiveSnapshot(),
           [&own](TupleTableSlot* slot) { own = WrittenByThisTransaction(slot); });
  return own;
}

bytea* FetchSessionSecret(const char* purpose) {
  ScanKeyData key;
  EqualKey(&key, 1, C_COLLATION_OID, F_TEXTEQ, CStringGetTextDatum(purpose));
  bytea* sealed = nullptr;
  FetchOne(ExtensionRelation("session_secret"), ExtensionRelation("session_secret_pkey"), &key, 1, GetActiveSnapshot(),
           [&sealed](TupleTableSlot* slot) { sealed = CopyBytes(slot, kSecret); });
  return sealed;
}

}  // namespace token_refresh
