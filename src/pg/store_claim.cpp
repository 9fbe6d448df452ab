// Claiming: reads the rows that the engine wants, notes them as in flight, commits, and
// only then opens their refresh tokens. No row of a token table is locked.
#include "core/token_cipher.h"
#include "pg/bytes.h"
#include "pg/claim_statements.h"
#include "pg/keys.h"
#include "pg/outcome_log.h"
#include "pg/seal_outcomes.h"
#include "pg/store.h"

namespace token_refresh {

namespace {

std::string_view OrNothing(const char* text) { return text == nullptr ? std::string_view() : std::string_view(text); }

Claim MakeClaim(const ClaimRequest& request, const PlainClaim& row, int64_t journal_id) {
  Claim claim;
  claim.schedule_id = request.schedule_id;
  claim.provider_id = row.provider;
  claim.journal_id = journal_id;
  claim.token_table = row.token_table;
  claim.row_key = row.row_key;
  if (row.token.subject != nullptr) claim.subject = row.token.subject;
  if (row.token.label != nullptr) claim.label = row.token.label;
  if (row.token.captured != nullptr) claim.captured = row.token.captured;
  claim.stored_refresh_token = View(row.token.stored);
  if (row.token.refresh_expires_at != 0) claim.refresh_expires_at = FromTimestamp(row.token.refresh_expires_at);
  claim.generation = row.generation;
  claim.attempts = row.attempts;
  claim.lost_response = row.lost_response;
  if (row.expires) claim.expires_at = FromTimestamp(row.expires_at);
  if (row.refreshed_before) claim.last_refreshed_at = FromTimestamp(row.last_refreshed_at);
  if (row.due) claim.due_at = FromTimestamp(row.due_at);
  if (row.refresh_margin > 0) claim.refresh_margin = row.refresh_margin;
  claim.asked_for = request.on_demand;
  claim.only_asked = IsOnlyAsked(row);
  return claim;
}

}  // namespace

struct PgStore::ClaimScratch {
  PlainClaim* rows = nullptr;
  int64_t journal_id = 0;
  bool providers_changed = false;
};

Status PgStore::ReadClaims(Micros now, std::span<const ClaimRequest> requests, ClaimScratch* scratch) {
  MemoryContextReset(scratch_context_);
  const std::vector<int32_t> full = TablesFullOfUnsaved(), introspected = IntrospectedProviders();
  auto error = RunPostgres(kActivityClaim, [&] {
    scratch->rows =
        static_cast<PlainClaim*>(MemoryContextAllocZero(scratch_context_, sizeof(PlainClaim) * requests.size()));
    const std::optional<int64_t> noted =
        ReadAndNoteClaims(now, requests, {full, introspected, providers_at_version_}, scratch_context_, scratch->rows);
    scratch->providers_changed = !noted;
    scratch->journal_id = noted.value_or(0);
  });
  if (error) return Complain("claiming due credentials", *error);
  return Ok();
}

std::vector<int32_t> PgStore::TablesFullOfUnsaved() const {
  std::unordered_map<int32_t, size_t> of_table;
  std::vector<int32_t> full;
  for (const auto& [schedule_id, token_table] : unsaved_)
    if (++of_table[token_table] == kUnsavedOfTable) full.push_back(token_table);
  return full;
}

std::vector<int32_t> PgStore::IntrospectedProviders() const {
  std::vector<int32_t> ids;
  for (const auto& provider : providers_)
    if (provider->options.timing.introspects) ids.push_back(provider->id);
  return ids;
}

void PgStore::OpenClaims(std::span<const ClaimRequest> requests, ClaimScratch* scratch, ClaimBatch* batch) {
  if (scratch->journal_id == 0) return;
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) ReportToLog(WARNING, ring.error().message.c_str(), ring.error().hint.c_str());
  std::vector<Claim> unopened;
  for (size_t i = 0; i < requests.size(); i++) {
    const PlainClaim& row = scratch->rows[i];
    if (!row.claimed) continue;
    Claim claim = MakeClaim(requests[i], row, scratch->journal_id);
    const Status opened = ring.ok() ? OpenClaim(**ring, row.token, &claim) : Status(ring.error());
    if (opened.ok()) {
      in_flight_[claim.schedule_id] = StoredDigest(claim.stored_refresh_token);
      batch->claims.push_back(std::move(claim));
      continue;
    }
    batch->refused.push_back({claim.schedule_id, Refusal::kUnreadable});
    if (ring.ok())
      LogUnopened(claim, ProviderName(claim.provider_id), KnownTokenTable(claim.token_table), opened.error().message);
    unopened.push_back(std::move(claim));
  }
  journal_left_[scratch->journal_id] = static_cast<int>(batch->claims.size());
  if (!unopened.empty()) NoteUnopened(scratch->journal_id, batch->claims, unopened, ring.ok());
}

// The note was made before anything was opened. Where there is no key at all the rows themselves are not to blame.
void PgStore::NoteUnopened(int64_t journal_id, const std::vector<Claim>& opened, const std::vector<Claim>& unopened,
                           bool blame_rows) {
  auto error = RunPostgres(kActivityClaim, [&] {
    const int in_flight = static_cast<int>(opened.size());
    int64_t* asked = static_cast<int64_t*>(palloc(sizeof(int64_t) * Max(in_flight, 1)));
    for (int i = 0; i < in_flight; i++) asked[i] = opened[i].schedule_id;
    NarrowNote(journal_id, asked, in_flight);
    if (!blame_rows) return;
    const int count = static_cast<int>(unopened.size());
    int64_t* ids = static_cast<int64_t*>(palloc(sizeof(int64_t) * count));
    int64_t* generations = static_cast<int64_t*>(palloc(sizeof(int64_t) * count));
    const char** messages = static_cast<const char**>(palloc(sizeof(char*) * count));
    Micros* until = static_cast<Micros*>(palloc0(sizeof(Micros) * count));
    for (int i = 0; i < count; i++) {
      ids[i] = unopened[i].schedule_id;
      generations[i] = unopened[i].generation;
      // What it holds of the row did open.
      messages[i] = unopened[i].refresh_token.empty()
                        ? "the stored refresh token does not open with the keys at hand"
                        : "the client_secret stored with the credential does not open with the keys at hand";
    }
    NoteUnreadable(ids, generations, messages, until, count);
  });
  if (error) {
    // A note of which nothing is left goes with the next one that is finished.
    Complain("noting unreadable tokens", *error);
  } else if (opened.empty()) {
    journal_left_.erase(journal_id);
  }
}

Status PgStore::OpenClaim(const KeyRing& ring, const TokenRow& row, Claim* claim) const {
  auto open = [&](const char* column, std::string_view stored, const char* opened) {
    return OpenToken(ring, claim->token_table, claim->row_key, column, stored, OrNothing(opened));
  };
  Result<Secret> refresh = open("refresh_token", claim->stored_refresh_token, row.opened);
  if (!refresh.ok()) return refresh.error();
  claim->refresh_token = std::move(*refresh);
  if (Status client = OpenClient(ring, row, claim); !client.ok()) return client;
  if (row.stored_access == nullptr) return Ok();
  // One that does not open is refreshed, which replaces it.
  Result<Secret> access = open("access_token", View(row.stored_access), row.opened_access);
  if (access.ok()) claim->access_token = std::move(*access);
  return Ok();
}

Status PgStore::OpenClient(const KeyRing& ring, const TokenRow& row, Claim* claim) const {
  if (row.client_id != nullptr) claim->client_id = row.client_id;
  if (row.stored_client_secret == nullptr) return Ok();
  Result<Secret> secret =
      OpenToken(ring, claim->token_table, claim->row_key, "client_secret", View(row.stored_client_secret), {});
  if (!secret.ok()) return Error{secret.error().code, "its client_secret: " + secret.error().message, {}};
  claim->client_secret = std::move(*secret);
  return Ok();
}

// opened: what the table's own function has made of it, if it has one.
Result<Secret> PgStore::OpenToken(const KeyRing& ring, int32_t token_table, const std::string& row_key,
                                  const char* column, std::string_view stored, std::string_view opened) const {
  const TokenCipher cipher = CipherOf(token_table);
  if (cipher.kind != TableCipher::kFunctions) return OpenStoredToken(ring, cipher, row_key, column, stored);
  if (opened.empty()) return Error{ErrorCode::kNotAuthentic, "the decrypt function of the table gives nothing", {}};
  return Secret(opened);
}

Result<int64_t> PgStore::NoteInFlight(const std::vector<int64_t>& schedule_ids) {
  int64_t journal_id = 0;
  auto error = RunPostgres(kActivityClaim, [&] {
    journal_id = InsertNote(schedule_ids.data(), static_cast<int>(schedule_ids.size()), nullptr, 0);
  });
  if (error) return Complain("claiming parked results", *error);
  journal_left_[journal_id] = static_cast<int>(schedule_ids.size());
  return journal_id;
}

Status PgStore::NoteRefresh(const Claim& claim) {
  auto error = RunPostgres(kActivityClaim, [&] { NoteRefreshOf(claim.journal_id, claim.schedule_id); });
  if (error) return Complain("noting a refresh", *error);
  return Ok();
}

Result<ClaimBatch> PgStore::ClaimRows(Micros now, std::span<const ClaimRequest> requests) {
  ClaimScratch scratch;
  Status read = ReadClaims(now, requests, &scratch);
  if (!read.ok()) return read.error();
  ClaimBatch batch;
  batch.providers_changed = scratch.providers_changed;
  for (size_t i = 0; i < requests.size() && !batch.providers_changed; i++) {
    const PlainClaim& row = scratch.rows[i];
    if (row.claimed) continue;
    std::optional<Refusal> refusal = JudgeClaim(now, requests[i], row);
    batch.refused.push_back({requests[i].schedule_id, refusal.value_or(Refusal::kNotFound)});
  }
  OpenClaims(requests, &scratch, &batch);
  for (size_t i = 0; i < requests.size(); i++) WipeOpened(&scratch.rows[i].token, 1);
  RetryParked(now, requests, &batch);
  return batch;
}

}  // namespace token_refresh
