// Parked results: fresh tokens that their table would not take. They are kept sealed, readers
// get them meanwhile, and each time their row comes up the store tries to write them again. When
// they fall due themselves, they are refreshed like any others.
#include <iterator>

#include "core/sealed_box.h"
#include "pg/bytes.h"
#include "pg/catalog.h"
#include "pg/keys.h"
#include "pg/save_statements.h"
#include "pg/seal_outcomes.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"
#include "pg/store.h"
#include "pg/token_rows.h"

namespace token_refresh {

namespace {

// To a refresh token that came alone belong the times of the access token that is stored.
Statement read_parked = {
    "SELECT s.id, s.provider, s.token_table, s.row_key, p.replaces_refresh_token, p.access_token, p.refresh_token,"
    " p.token_type, p.scope,"
    " CASE WHEN p.access_token IS NULL THEN s.last_refreshed_at ELSE p.issued_at END,"
    " CASE WHEN p.access_token IS NULL THEN s.expires_at ELSE p.expires_at END,"
    " p.refresh_expires_at,"
    " CASE WHEN p.access_token IS NULL THEN s.due_at ELSE p.due_at END,"
    " p.generation, s.attempts, s.lost_response, s.status = 'disconnected', p.replaces, p.captured::text, p.expiry_assumed"
    " FROM unnest($1) AS r(id) JOIN token_refresh.schedule s ON s.id = r.id AND s.row_key IS NOT NULL"
    " JOIN token_refresh.parked_result p ON p.schedule_id = s.id",
    1,
    {INT8ARRAYOID},
    nullptr};

struct PlainParked {
  int64_t schedule_id, generation;
  int32_t provider, token_table, attempts;
  char *row_key, *token_type, *scope, *captured;
  bytea *replaces, *access_token, *refresh_token;  // not both of the last two are null
  bytea* replaced_digest;                          // may be null
  bool expires, refresh_expires, due, lost_response, disconnected, expiry_assumed;
  TimestampTz issued_at, expires_at, refresh_expires_at, due_at;
  TokenRow token;  // what its table says of the row
  Micros refresh_margin;
};

bytea* GetBytes(HeapTuple tuple, TupleDesc desc, int column) {
  bool is_null;
  Datum value = SPI_getbinval(tuple, desc, column, &is_null);
  return is_null ? nullptr : DatumGetByteaPCopy(value);
}

char* GetText(HeapTuple tuple, TupleDesc desc, int column) {
  bool is_null;
  Datum value = SPI_getbinval(tuple, desc, column, &is_null);
  return is_null ? nullptr : TextDatumGetCString(value);
}

bool GetTime(HeapTuple tuple, TupleDesc desc, int column, TimestampTz* time) {
  bool is_null;
  Datum value = SPI_getbinval(tuple, desc, column, &is_null);
  *time = is_null ? 0 : DatumGetTimestampTz(value);
  return !is_null;
}

void ReadRow(HeapTuple tuple, TupleDesc desc, PlainParked* row) {
  bool is_null;
  row->schedule_id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &is_null));
  row->provider = DatumGetInt32(SPI_getbinval(tuple, desc, 2, &is_null));
  row->token_table = DatumGetInt32(SPI_getbinval(tuple, desc, 3, &is_null));
  row->row_key = GetText(tuple, desc, 4);
  row->replaces = GetBytes(tuple, desc, 5);
  row->access_token = GetBytes(tuple, desc, 6);
  row->refresh_token = GetBytes(tuple, desc, 7);
  row->token_type = GetText(tuple, desc, 8);
  row->scope = GetText(tuple, desc, 9);
  GetTime(tuple, desc, 10, &row->issued_at);
  row->expires = GetTime(tuple, desc, 11, &row->expires_at);
  row->refresh_expires = GetTime(tuple, desc, 12, &row->refresh_expires_at);
  row->due = GetTime(tuple, desc, 13, &row->due_at);
  row->generation = DatumGetInt64(SPI_getbinval(tuple, desc, 14, &is_null));
  row->attempts = DatumGetInt32(SPI_getbinval(tuple, desc, 15, &is_null));
  row->lost_response = DatumGetBool(SPI_getbinval(tuple, desc, 16, &is_null));
  row->disconnected = DatumGetBool(SPI_getbinval(tuple, desc, 17, &is_null));
  row->replaced_digest = GetBytes(tuple, desc, 18);
  row->captured = GetText(tuple, desc, 19);
  row->expiry_assumed = DatumGetBool(SPI_getbinval(tuple, desc, 20, &is_null));
}

// What the row's own table says of it.
void ReadTableRow(MemoryContext context, PlainParked* row) {
  TokenTable* table = FindTokenTable(row->token_table);
  if (table == nullptr) return;
  const char* key = row->row_key;
  ReadTokenRows(table, &key, 1, context, &row->token);
  row->refresh_margin = table->refresh_margin;
}

// Who asks for a credential that is disconnected is told so; in the background it is one that is parked.
void RefuseCaller(const Claim& claim, ClaimBatch* batch) {
  if (!claim.asked_for) return;
  for (RefusedClaim& refused : batch->refused)
    if (refused.schedule_id == claim.schedule_id) refused.refusal = Refusal::kNeedsReauth;
}

// What the row was answered, as an outcome that only has to be written. Its claim holds the refresh
// token that would be sent next.
Result<Outcome> MakeOutcome(const KeyRing& ring, const PlainParked& row) {
  Outcome outcome;
  Claim& claim = outcome.claim;
  claim.schedule_id = row.schedule_id;
  claim.provider_id = row.provider;
  claim.token_table = row.token_table;
  claim.row_key = row.row_key;
  if (row.token.subject != nullptr) claim.subject = row.token.subject;
  if (row.token.label != nullptr) claim.label = row.token.label;
  // It has come to what the row holds.
  if (row.captured != nullptr)
    claim.captured = row.captured;
  else if (row.token.captured != nullptr)
    claim.captured = row.token.captured;
  if (row.refresh_margin > 0) claim.refresh_margin = row.refresh_margin;
  claim.generation = row.generation;
  claim.attempts = row.attempts;
  claim.lost_response = row.lost_response;
  claim.last_refreshed_at = FromTimestamp(row.issued_at);
  std::string key = std::to_string(row.schedule_id);
  Result<Secret> replaced = Open(ring, {kParkedPlace, key, "replaces_refresh_token"}, View(row.replaces));
  if (!replaced.ok()) return replaced.error();
  Result<Secret> refresh = row.refresh_token != nullptr
                               ? Open(ring, {kParkedPlace, key, "refresh_token"}, View(row.refresh_token))
                               : Result<Secret>(replaced->Clone());
  if (!refresh.ok()) return refresh.error();
  claim.replaced_refresh_token = std::move(*replaced);
  if (row.access_token != nullptr) {
    Result<Secret> access = Open(ring, {kParkedPlace, key, "access_token"}, View(row.access_token));
    if (!access.ok()) return access.error();
    outcome.tokens.emplace();
    outcome.tokens->access_token = std::move(*access);
    if (row.refresh_token != nullptr) outcome.tokens->refresh_token = refresh->Clone();
    outcome.tokens->token_type = row.token_type;
    if (row.scope != nullptr) outcome.tokens->scope = row.scope;
    if (row.captured != nullptr) outcome.tokens->captured = row.captured;
    outcome.expiry_assumed = row.expiry_assumed;
  } else {
    outcome.rotated_refresh_token = refresh->Clone();
  }
  claim.refresh_token = std::move(*refresh);
  outcome.answered_at = FromTimestamp(row.issued_at);
  if (row.expires) outcome.expires_at = claim.expires_at = FromTimestamp(row.expires_at);
  if (row.refresh_expires) outcome.refresh_expires_at = FromTimestamp(row.refresh_expires_at);
  if (row.due) outcome.due_at = claim.due_at = FromTimestamp(row.due_at);
  return outcome;
}

}  // namespace

Result<PgStore::ParkedOutcomes> PgStore::LoadParked(const std::vector<int64_t>& schedule_ids) {
  MemoryContextReset(scratch_context_);
  PlainParked* rows = nullptr;
  uint64 count = 0;
  auto error = RunPostgres(kActivitySave, [&] {
    Datum values[] = {MakeArray(static_cast<int>(schedule_ids.size()), INT8OID,
                                [&](int i, bool*) { return Int64GetDatum(schedule_ids[i]); })};
    count = Execute(&read_parked, values, false);
    SPITupleTable* table = SPI_tuptable;
    MemoryContext previous = MemoryContextSwitchTo(scratch_context_);
    rows = static_cast<PlainParked*>(palloc0(sizeof(PlainParked) * (count + 1)));
    for (uint64 i = 0; i < count; i++) ReadRow(table->vals[i], table->tupdesc, &rows[i]);
    MemoryContextSwitchTo(previous);
    for (uint64 i = 0; i < count; i++) ReadTableRow(scratch_context_, &rows[i]);
  });
  if (error) return Complain("reading parked results", *error);
  Result<const KeyRing*> ring = LoadKeyRing();
  ParkedOutcomes parked;
  std::vector<int64_t> unopened;
  for (uint64 i = 0; i < count; i++) {
    Result<Outcome> outcome = ring.ok() ? MakeOutcome(**ring, rows[i]) : Result<Outcome>(ring.error());
    const Status client = outcome.ok() ? OpenClient(**ring, rows[i].token, &outcome->claim) : Ok();
    if (!client.ok()) outcome = client.error();
    StoredToken stored = ToStored(rows[i].token);
    WipeOpened(&rows[i].token, 1);
    if (!outcome.ok()) {
      if (unopened.empty()) ReportToLog(WARNING, ("parked results cannot be opened: " + outcome.error().message).c_str());
      unopened.push_back(rows[i].schedule_id);
      continue;
    }
    // As it is stored, a native one does not open under another key. If another token stands in the row by now,
    // nothing compares with nothing.
    const bool same_envelope = !stored.refresh_token.empty() && rows[i].replaced_digest != nullptr &&
                               StoredDigest(stored.refresh_token) == View(rows[i].replaced_digest);
    if (same_envelope || Compare(ring, outcome->claim, outcome->claim.row_key, stored) == Sameness::kSame)
      outcome->claim.stored_refresh_token = stored.refresh_token;
    parked.outcomes.push_back(std::move(*outcome));
    parked.disconnected.push_back(rows[i].disconnected);
  }
  Postpone(unopened, kParkedUnopened, kUnopenedPauseSeconds);
  return parked;
}

void PgStore::Postpone(const std::vector<int64_t>& schedule_ids, const char* reason, int least_seconds) {
  if (schedule_ids.empty()) return;
  auto error = RunPostgres(kActivitySave, [&] { PostponeParked(schedule_ids, reason, least_seconds); });
  if (error) Complain("postponing parked results", *error);
}

void PgStore::RetryParked(Micros now, std::span<const ClaimRequest> requests, ClaimBatch* batch) {
  std::vector<int64_t> ids;
  for (const RefusedClaim& refused : batch->refused)
    if (refused.refusal == Refusal::kParked) ids.push_back(refused.schedule_id);
  if (ids.empty()) return;
  Result<ParkedOutcomes> parked = LoadParked(ids);
  if (!parked.ok()) return;
  std::vector<SaveVerdict> verdicts = SaveAll(now, parked->outcomes, true);
  std::vector<Claim> running_out;
  std::vector<ClaimRequest> healed;
  for (size_t i = 0; i < parked->outcomes.size(); i++) {
    Outcome& outcome = parked->outcomes[i];
    for (const ClaimRequest& request : requests)
      if (request.schedule_id == outcome.claim.schedule_id) outcome.claim.asked_for = request.on_demand;
    const bool due = outcome.due_at && *outcome.due_at <= now;
    if (!due && !outcome.claim.asked_for) continue;
    if (parked->disconnected[i])
      RefuseCaller(outcome.claim, batch);
    else if (verdicts[i] == SaveVerdict::kParked || verdicts[i] == SaveVerdict::kNotStored)
      running_out.push_back(std::move(outcome.claim));
    else if (outcome.claim.asked_for)
      healed.push_back({outcome.claim.schedule_id, true});
  }
  if (!running_out.empty()) ClaimParked(std::move(running_out), batch);
  if (!healed.empty()) ClaimHealed(now, healed, batch);
}

// Parked tokens that are running out themselves, or that do not last long enough for somebody: they are refreshed
// with the refresh token parked beside them.
void PgStore::ClaimParked(std::vector<Claim> claims, ClaimBatch* batch) {
  std::vector<int64_t> ids;
  for (const Claim& claim : claims) ids.push_back(claim.schedule_id);
  Result<int64_t> journal_id = NoteInFlight(ids);
  if (!journal_id.ok()) return;
  for (Claim& claim : claims) {
    claim.journal_id = *journal_id;
    std::erase_if(batch->refused, [&](const RefusedClaim& refused) { return refused.schedule_id == claim.schedule_id; });
    batch->claims.push_back(std::move(claim));
  }
}

// Results that their table has taken at last, and that are not what the caller waits for: ordinary rows now.
void PgStore::ClaimHealed(Micros now, const std::vector<ClaimRequest>& requests, ClaimBatch* batch) {
  Result<ClaimBatch> more = ClaimRows(now, requests);
  if (!more.ok() || more->providers_changed) return;
  for (const ClaimRequest& request : requests)
    std::erase_if(batch->refused, [&](const RefusedClaim& refused) { return refused.schedule_id == request.schedule_id; });
  std::move(more->claims.begin(), more->claims.end(), std::back_inserter(batch->claims));
  batch->refused.insert(batch->refused.end(), more->refused.begin(), more->refused.end());
}

void PgStore::Park(Saving* saving, const std::vector<size_t>& which, const std::string& reason) {
  const std::span<const Outcome> outcomes = saving->outcomes;
  Result<std::vector<SealedTokens>> sealed = SealForParking(outcomes, saving->targets, which);
  if (!sealed.ok()) return;
  std::vector<std::string> messages(outcomes.size(), reason);
  std::vector<std::string> names = ProviderNames(outcomes);
  std::vector<OpenNote> notes = NotesOf(outcomes, which);
  SaveWork work{saving->now, 0,        outcomes, *sealed, saving->targets, which, names,
                messages,    notes, saving->from_parked, {}};
  std::optional<PostgresError> failed = RunPostgres(kActivitySave, [&] { WriteParked(work, reason); });
  if (failed) {
    Complain("parking fresh tokens", *failed);
    if (which.size() == 1) return;
    for (size_t i : which) Park(saving, {i}, reason);
    return;
  }
  SettleNotes(outcomes, which);
  for (size_t i : which) saving->verdicts[i] = SaveVerdict::kParked;
  failed = RunPostgres(kActivitySave, [&] { ScheduleParked(work); });
  if (failed) Complain("scheduling parked tokens", *failed);
}

}  // namespace token_refresh
