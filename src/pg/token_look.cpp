#include "pg/token_look.h"

#include "core/sealed_box.h"
#include "pg/boundary.h"
#include "pg/keys.h"
#include "pg/read_attached.h"

namespace token_refresh {

namespace {

Snapshot FreshSnapshot() { return RegisterSnapshot(GetLatestSnapshot()); }

bool LookUpCredential(const TokenRequestArgs& args, Snapshot snapshot, Look* look) {
  if (!FetchCredential(args.provider, args.subject, args.label, snapshot, &look->row)) return false;
  pg_lltoa(look->row.id, look->id_text);
  look->token_table = kBuiltInTokenTable;
  look->row_key = look->id_text;
  look->issued = true;
  look->sealed_for = kCredentialPlace;
  look->sealed_for_row = look->row_key;
  return true;
}

bool LookUpAttached(const TokenRequestArgs& args, Snapshot snapshot, Look* look) {
  AttachedRow attached;
  if (!FetchAttached(args.table, args.row_key, snapshot, &attached)) return false;
  look->row = attached.row;
  look->token_table = args.table->id;
  look->row_key = attached.row_key;
  look->provider = attached.provider;
  look->subject = attached.subject;
  look->issued = attached.issued;
  look->sealed_for = nullptr;
  return true;
}

// A refreshed token that its table has not accepted yet is as good as any: it takes the place of the one in the row.
void PreferParked(Look* look) {
  ParkedRow parked;
  CredentialRow* row = &look->row;
  ScheduleRow schedule;
  Snapshot snapshot = FreshSnapshot();
  bool found = FetchSchedule(look->token_table, look->row_key, snapshot, &schedule) &&
               FetchParked(schedule.id, snapshot, &parked);
  UnregisterSnapshot(snapshot);
  if (!found || parked.access_token == nullptr) return;
  if (look->issued && parked.issued_at <= row->issued_at) return;
  if (!Alive(parked.expires, parked.expires_at) && Alive(row->expires, row->expires_at)) return;
  look->sealed_for = kParkedPlace;
  look->sealed_for_row = psprintf(INT64_FORMAT, schedule.id);
  row->access_token = parked.access_token;
  row->token_type = parked.token_type;
  if (parked.scope != nullptr) row->scope = parked.scope;
  row->issued_at = parked.issued_at;
  look->issued = true;
  row->expires = parked.expires;
  row->expires_at = parked.expires_at;
  if (strcmp(row->status, kGone) != 0) row->status = pstrdup("connected");
}

}  // namespace

bool LookUp(const TokenRequestArgs& args, bool fresh, Look* look) {
  // A transaction snapshot may be older than the last refresh; a statement's is as new as it gets.
  bool latest = fresh || IsolationUsesXactSnapshot();
  Snapshot snapshot = latest ? FreshSnapshot() : GetActiveSnapshot();
  bool found = args.table != nullptr ? LookUpAttached(args, snapshot, look) : LookUpCredential(args, snapshot, look);
  if (latest) UnregisterSnapshot(snapshot);
  return found;
}

bool LookAgain(const TokenRequestArgs& args, Look* look) {
  if (!LookUp(args, true, look)) return false;
  PreferParked(look);
  return true;
}

bool LookUpSchedule(const Look& look, ScheduleRow* schedule) {
  Snapshot snapshot = FreshSnapshot();
  bool found = FetchSchedule(look.token_table, look.row_key, snapshot, schedule);
  UnregisterSnapshot(snapshot);
  return found;
}

text* OpenToken(const TokenRequestArgs& args, const Look& look) {
  bytea* sealed = look.row.access_token;
  if (sealed == nullptr) return nullptr;
  if (look.sealed_for == nullptr) return OpenAttached(*args.table, look.row_key, look.subject, sealed);
  std::string_view envelope(VARDATA_ANY(sealed), VARSIZE_ANY_EXHDR(sealed));
  // Allocated before C++ is entered: the plaintext is not longer than its envelope.
  text* opened = static_cast<text*>(palloc(VARHDRSZ + envelope.size()));
  size_t size = 0;
  RunCpp([&]() -> Status {
    Result<const KeyRing*> ring = LoadKeyRing();
    if (!ring.ok()) return ring.error();
    Result<size_t> length = OpenedSize(envelope);
    if (!length.ok()) return length.error();
    size = *length;
    SealedPlace place{look.sealed_for, look.sealed_for_row, "access_token"};
    return OpenInto(**ring, place, envelope, VARDATA(opened));
  });
  SET_VARSIZE(opened, VARHDRSZ + size);
  return opened;
}

bool Alive(bool expires, TimestampTz expires_at) { return !expires || expires_at > GetCurrentTimestamp(); }

}  // namespace token_refresh
