#include "pg/signing_keys.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "core/sealed_box.h"
#include "pg/boundary.h"
#include "pg/catalog.h"
#include "pg/index_lookup.h"
#include "pg/keys.h"

namespace token_refresh {

namespace {

// Column numbers, as the install script creates them.
enum SigningKeyColumn {
  kKid = 1,
  kAlgorithm = 2,
  kKey = 3,
  kPublicJwk = 4,
  kCreatedAt = 5,
  kRetiredAt = 6,
  kVerifyUntil = 7
};

constexpr Micros kRetry = kSecond;

// Plain data, palloc'd.
struct KeyRow {
  char* kid;
  char* algorithm;
  bytea* sealed;
  char* public_jwk;  // null: HS256
  TimestampTz created_at;
  bool retired;
  bool ends;
  TimestampTz verify_until;
};

struct OpenedKeys {
  JwkSet verifying;
  std::optional<SigningKey> signing;  // opened when it is needed
  TimestampTz stale_at = PG_INT64_MAX;
};

Oid watched = InvalidOid;
uint64 changes = 1;
uint64 loaded_at = 0;  // the number of changes when the keys were read
uint64 loads = 0;
OpenedKeys* opened = nullptr;
bool told = false;  // that a key does not open

void Wipe() {
  delete opened;
  opened = nullptr;
}

void ForgetOnChange(Datum, Oid relation) {
  if (relation != InvalidOid && relation != watched) return;
  changes++;
  Wipe();
}

void Watch() {
  static bool watching = false;
  watched = ExtensionRelation("signing_key");
  if (watching) return;
  CacheRegisterRelcacheCallback(ForgetOnChange, 0);
  watching = true;
}

KeyRow* ReadRow(TupleTableSlot* slot) {
  KeyRow* row = static_cast<KeyRow*>(palloc0(sizeof(KeyRow)));
  bool is_null;
  TimestampTz retired_at;
  row->kid = CopyText(slot, kKid);
  row->algorithm = CopyText(slot, kAlgorithm);
  row->sealed = CopyBytes(slot, kKey);
  Datum jwk = GetColumn(slot, kPublicJwk, &is_null);
  if (!is_null) {
    Jsonb* document = DatumGetJsonbP(jwk);
    row->public_jwk = JsonbToCString(nullptr, &document->root, VARSIZE(document));
  }
  GetTime(slot, kCreatedAt, &row->created_at);
  row->retired = GetTime(slot, kRetiredAt, &retired_at);
  row->ends = GetTime(slot, kVerifyUntil, &row->verify_until);
  return row;
}

int NewestFirst(const ListCell* a, const ListCell* b) {
  const KeyRow* left = static_cast<const KeyRow*>(lfirst(a));
  const KeyRow* right = static_cast<const KeyRow*>(lfirst(b));
  if (left->created_at != right->created_at) return left->created_at > right->created_at ? -1 : 1;
  return strcmp(left->kid, right->kid);
}

List* ReadRows() {
  List* rows = NIL;
  Relation relation = OpenTable(watched);
  Snapshot snapshot = RegisterFreshSnapshot(watched);
  TableScanDesc scan = table_beginscan(relation, snapshot, 0, nullptr);
  TupleTableSlot* slot = table_slot_create(relation, nullptr);
  while (table_scan_getnextslot(scan, ForwardScanDirection, slot)) rows = lappend(rows, ReadRow(slot));
  ExecDropSingleTupleTableSlot(slot);
  table_endscan(scan);
  UnregisterSnapshot(snapshot);
  table_close(relation, AccessShareLock);
  list_sort(rows, NewestFirst);
  return rows;
}

Result<Secret> OpenKey(const KeyRow& row) {
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return ring.error();
  return Open(**ring, SealedPlace{kSigningKeyPlace, row.kid, kSigningKeyColumn},
              {VARDATA_ANY(row.sealed), VARSIZE_ANY_EXHDR(row.sealed)});
}

Result<VerificationKey> ReadVerificationKey(const KeyRow& row) {
  if (row.public_jwk != nullptr) return ParseJwk(row.public_jwk);
  Result<Secret> secret = OpenKey(row);
  if (!secret.ok()) return secret.error();
  return VerificationKey::FromSecret(secret->view(), row.kid);
}

void Complain(const KeyRow& row, const Error& error) {
  if (told) return;
  told = true;
  ReportToLog(LOG_SERVER_ONLY, (std::string("signing key ") + row.kid + " cannot be used: " + error.message).c_str());
}

Result<SigningKey> ReadSigningKey(const KeyRow& row) {
  Result<Secret> key = OpenKey(row);
  if (!key.ok()) return key.error();
  if (row.public_jwk == nullptr) return SigningKey::FromSecret(key->view(), row.kid);
  return SigningKey::FromPem(key->view(), FindJwsAlgorithm(row.algorithm), row.kid);
}

std::unique_ptr<OpenedKeys> OpenAll(List* rows, TimestampTz now) {
  auto fresh = std::make_unique<OpenedKeys>();
  bool all_open = true;
  ListCell* cell;
  foreach (cell, rows) {
    const KeyRow& row = *static_cast<const KeyRow*>(lfirst(cell));
    if (row.ends && row.verify_until <= now) continue;
    if (row.ends) fresh->stale_at = std::min(fresh->stale_at, row.verify_until);
    Result<VerificationKey> key = ReadVerificationKey(row);
    if (key.ok()) {
      fresh->verifying.Add(std::move(*key));
      continue;
    }
    Complain(row, key.error());
    all_open = false;
  }
  if (all_open) told = false;
  if (!all_open) fresh->stale_at = std::min(fresh->stale_at, now + kRetry);
  return fresh;
}

void Load(TimestampTz now) {
  Watch();
  const uint64 changes_before = changes;
  List* rows = ReadRows();
  RunCpp([&]() -> Status {
    std::unique_ptr<OpenedKeys> fresh = OpenAll(rows, now);
    Wipe();
    opened = fresh.release();
    return Ok();
  });
  loaded_at = changes_before;
  loads++;
}

void Ensure() {
  AcceptInvalidationMessages();
  const TimestampTz now = GetCurrentTimestamp();
  if (opened == nullptr || loaded_at != changes || now >= opened->stale_at) Load(now);
}

const KeyRow* FindNewest(List* rows) {
  ListCell* cell;
  foreach (cell, rows)
    if (!static_cast<KeyRow*>(lfirst(cell))->retired) return static_cast<KeyRow*>(lfirst(cell));
  ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("there is no key to sign with"),
                  errhint("Make one with token_refresh.create_signing_key().")));
  pg_unreachable();
}

}  // namespace

const JwkSet* VerificationKeys() {
  Ensure();
  return &opened->verifying;
}

uint64 VerificationKeysVersion() { return loads; }

const SigningKey* NewestSigningKey() {
  Ensure();
  if (opened->signing.has_value()) return &*opened->signing;
  const KeyRow* row;
  uint64 changes_before;
  do {
    changes_before = changes;
    row = FindNewest(ReadRows());
    Ensure();
  } while (changes != changes_before);
  RunCpp([&]() -> Status {
    Result<SigningKey> key = ReadSigningKey(*row);
    if (!key.ok()) return key.error();
    opened->signing = std::move(*key);
    return Ok();
  });
  return &*opened->signing;
}

}  // namespace token_refresh
