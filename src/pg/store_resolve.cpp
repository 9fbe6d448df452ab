// Answers whose compare-and-set did not match. The same token in a new envelope is saved after all, other tokens
// are left alone, and where nobody can tell fresh tokens are parked. Other tokens beside the same refresh token
// are left alone as well, unless the provider has replaced that: then what it gave is all there is.
#include "pg/catalog.h"
#include "pg/keys.h"
#include "pg/outcome_log.h"
#include "pg/save_statements.h"
#include "pg/seal_outcomes.h"
#include "pg/secondary_tokens.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"
#include "pg/store.h"
#include "pg/token_rows.h"

namespace token_refresh {

namespace {

// A row that has been deleted has left its key, one that a sweep has missed may still turn up.
Statement load_schedule = {
    "SELECT generation, row_key, row_key IS NOT NULL OR missed_at IS NOT NULL"
    " FROM token_refresh.schedule WHERE id = $1", 1, {INT8OID}, nullptr};

constexpr const char* kUnopened = "the refresh token in the row does not open with the keys at hand";
constexpr const char* kUnreadable = "the row cannot be read, so nobody knows which refresh token it holds";
constexpr const char* kMissed = "the row is gone; a sweep looks whether it has another key";

}  // namespace

// Looks into those whose compare-and-set did not match. Returns the ones that are to be saved once more: the row has
// another key by now, or holds the same token in a new envelope. Settles the verdict of the others.
std::vector<size_t> PgStore::ResolveMissed(Saving* saving, const std::vector<size_t>& which) {
  std::vector<size_t> missed, again, unclear, hidden, awaited, replanned, outdated, superseded;
  for (size_t i : which)
    if (saving->verdicts[i] == SaveVerdict::kSuperseded) missed.push_back(i);
  if (missed.empty()) return again;
  Result<std::vector<StoredToken>> stored = LoadStored(*saving, missed);
  Result<const KeyRing*> ring = LoadKeyRing();
  for (size_t m = 0; m < missed.size(); m++) {
    size_t i = missed[m];
    const Outcome& outcome = saving->outcomes[i];
    SaveTarget& target = saving->targets[i];
    SaveVerdict& verdict = saving->verdicts[i];
    if (!stored.ok()) {
      hidden.push_back(i);
      continue;
    }
    const StoredToken& current = (*stored)[m];
    if (!current.attached && !outcome.HasNewTokens()) {
      verdict = SaveVerdict::kGone;
      replanned.push_back(i);
      continue;
    }
    if (current.moved || !current.readable) {
      verdict = SaveVerdict::kNotStored;
      (current.moved ? again : hidden).push_back(i);
      if (current.moved) target.row_key = current.row_key;
      continue;
    }
    const bool same_envelope = !current.refresh_token.empty() && current.refresh_token == target.refresh_token;
    const Sameness sameness = same_envelope ? Sameness::kSame : Compare(ring, outcome.claim, target.row_key, current);
    if (!current.exists && current.awaited && Rotated(outcome)) {
      awaited.push_back(i);
    } else if (sameness == Sameness::kOther) {
      if (!current.exists) verdict = SaveVerdict::kGone;
      superseded.push_back(i);
    } else if (sameness == Sameness::kUnclear) {
      unclear.push_back(i);
    } else if (outcome.tokens && !Rotated(outcome) && current.generation != outcome.claim.generation) {
      outdated.push_back(i);
    } else if (same_envelope) {
      HandleIgnored(saving, i);
      if (verdict == SaveVerdict::kSuperseded) replanned.push_back(i);
    } else {
      target.refresh_token = current.refresh_token;
      verdict = SaveVerdict::kNotStored;
      again.push_back(i);
    }
  }
  KeepUnclear(saving, unclear, kUnopened);
  KeepUnclear(saving, hidden, kUnreadable);
  KeepUnclear(saving, awaited, kMissed);
  AuditSuperseded(saving, replanned, Discard::kNothing);
  AuditSuperseded(saving, outdated, Discard::kUnrotated);
  AuditSuperseded(saving, superseded, Discard::kAll);
  return again;
}

// What stands in their rows cannot be seen, or does not open, as when its key has not reached this process yet, or the
// row is not found. It may well be the token that was claimed: fresh tokens are kept until that can be seen, and so is
// the verdict on the others.
void PgStore::KeepUnclear(Saving* saving, const std::vector<size_t>& unclear, const char* reason) {
  std::vector<size_t> fresh;
  std::vector<int64_t> parked;
  for (size_t i : unclear) {
    const Outcome& outcome = saving->outcomes[i];
    saving->verdicts[i] = SaveVerdict::kNotStored;
    if (saving->from_parked)
      parked.push_back(outcome.claim.schedule_id);
    else if (outcome.HasNewTokens())
      fresh.push_back(i);
    if (!saving->from_parked) LogRejected(outcome, ProviderName(outcome.claim.provider_id), reason);
  }
  if (!fresh.empty()) Park(saving, fresh, reason);
  Postpone(parked, reason, 0);
}

// The table has taken the UPDATE without an error and without effect, as a trigger or a rule can make it.
void PgStore::HandleIgnored(Saving* saving, size_t i) {
  const char* reason = "a trigger or rule of the table has dropped the update";
  const Outcome& outcome = saving->outcomes[i];
  saving->verdicts[i] = SaveVerdict::kNotStored;
  PostgresError error;
  if (outcome.HasNewTokens())
    Park(saving, {i}, reason);
  else if (SaveOnce(saving, {i}, &error, true) && saving->verdicts[i] == SaveVerdict::kSuperseded)
    return;  // the row was planned anew meanwhile: the failure belongs to the plan before
  LogRejected(outcome, ProviderName(outcome.claim.provider_id), reason);
}

// What was given for rows of our own that are gone: they may have been disconnected. Empty: nothing was. What is parked
// already is queued when it is forgotten.
Result<std::vector<SealedTokens>> PgStore::SealForRevocation(const Saving& saving,
                                                             const std::vector<size_t>& superseded) const {
  std::vector<size_t> gone;
  for (size_t i : superseded) {
    const Outcome& outcome = saving.outcomes[i];
    const bool ours = outcome.claim.token_table == kBuiltInTokenTable && !saving.from_parked;
    if (ours && saving.verdicts[i] == SaveVerdict::kGone && outcome.HasNewTokens()) gone.push_back(i);
  }
  if (gone.empty()) return std::vector<SealedTokens>();
  return SealForParking(saving.outcomes, saving.targets, gone);
}

void PgStore::AuditSuperseded(Saving* saving, const std::vector<size_t>& superseded, Discard discard) {
  if (superseded.empty()) return;
  Result<std::vector<SealedTokens>> given = SealForRevocation(*saving, superseded);
  if (!given.ok()) {
    ReportToLog(WARNING, ("cannot seal fresh tokens: " + given.error().message).c_str());
    for (size_t i : superseded) saving->verdicts[i] = SaveVerdict::kNotStored;
    return;
  }
  const std::span<const Outcome> outcomes = saving->outcomes;
  std::vector<OpenNote> notes = NotesOf(outcomes, superseded);
  std::vector<std::string> messages(outcomes.size());
  std::vector<std::string> names = ProviderNames(outcomes);
  SaveWork work{saving->now, 0, outcomes, {}, saving->targets, superseded, names, messages, notes, false, {}};
  auto error = RunPostgres(kActivitySave, [&] {
    if (discard != Discard::kNothing) DeleteParkedResults(work, discard == Discard::kUnrotated);
    RevokeGiven(work, *given);
    WriteAudit(work, "superseded");
    // Others have replaced, or deleted, the row that was asked for, not those of what comes beside it.
    StoreSecondary(work, Pick(work, [](const Outcome& o) { return o.tokens.has_value(); }), true);
    DeleteFinishedNotes(work);
  });
  if (!error) {
    revocations_queued_ = revocations_queued_ || !given->empty();
    return SettleNotes(outcomes, superseded);
  }
  Complain("auditing superseded answers", *error);
  // What is parked comes up again by itself.
  if (saving->from_parked) return;
  for (size_t i : superseded) saving->verdicts[i] = SaveVerdict::kNotStored;
}

// Whether current is the token that was claimed, if need be in a new envelope (rotate_keys does that).
PgStore::Sameness PgStore::Compare(const Result<const KeyRing*>& ring, const Claim& claim, const std::string& row_key,
                                   const StoredToken& current) const {
  if (current.refresh_token.empty()) return Sameness::kOther;
  if (!ring.ok()) return Sameness::kUnclear;
  Result<Secret> opened =
      OpenToken(**ring, claim.token_table, row_key, "refresh_token", current.refresh_token, current.opened.view());
  if (!opened.ok()) return Sameness::kUnclear;
  return opened->Equals(claim.StoredRefreshToken().view()) ? Sameness::kSame : Sameness::kOther;
}

PgStore::StoredToken PgStore::ToStored(const TokenRow& row) {
  StoredToken stored;
  stored.readable = row.trouble == nullptr && !row.locked;
  stored.exists = row.found;
  if (row.opened != nullptr) stored.opened = Secret(row.opened);
  if (row.stored != nullptr) stored.refresh_token.assign(VARDATA_ANY(row.stored), VARSIZE_ANY_EXHDR(row.stored));
  return stored;
}

// The rows first: what the schedule says after that of their keys explains what was not found.
Result<std::vector<PgStore::StoredToken>> PgStore::LoadStored(const Saving& saving, const std::vector<size_t>& which) {
  struct PlainSchedule {
    int64_t generation;
    char* row_key;  // null: there is none
    bool awaited;
  };
  MemoryContextReset(scratch_context_);
  const int count = static_cast<int>(which.size());
  TokenRow* rows = static_cast<TokenRow*>(MemoryContextAllocZero(scratch_context_, sizeof(TokenRow) * which.size()));
  PlainSchedule* schedules =
      static_cast<PlainSchedule*>(MemoryContextAllocZero(scratch_context_, sizeof(PlainSchedule) * which.size()));
  bool attached = false;
  auto error = RunPostgres(kActivitySave, [&] {
    const char** keys = static_cast<const char**>(palloc(sizeof(char*) * count));
    for (int m = 0; m < count; m++) keys[m] = saving.targets[which[m]].row_key.c_str();
    const int32_t token_table = saving.outcomes[which.front()].claim.token_table;
    TokenTable* table = FindTokenTable(token_table);
    attached = table != nullptr;
    if (attached) ReadTokenRows(table, keys, count, scratch_context_, rows);
    for (int m = 0; m < count; m++) {
      Datum schedule_id[] = {Int64GetDatum(saving.outcomes[which[m]].claim.schedule_id)};
      bool is_null;
      schedules[m].generation = -1;
      if (Execute(&load_schedule, schedule_id, false) == 0) continue;
      HeapTuple tuple = SPI_tuptable->vals[0];
      TupleDesc desc = SPI_tuptable->tupdesc;
      schedules[m].generation = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &is_null));
      schedules[m].awaited = DatumGetBool(SPI_getbinval(tuple, desc, 3, &is_null));
      Datum row_key = SPI_getbinval(tuple, desc, 2, &is_null);
      if (!is_null) schedules[m].row_key = MemoryContextStrdup(scratch_context_, TextDatumGetCString(row_key));
    }
  });
  if (error) return Complain("reading what is stored", *error);
  std::vector<StoredToken> stored(which.size());
  for (int m = 0; m < count; m++) {
    stored[m] = ToStored(rows[m]);
    stored[m].attached = attached;
    stored[m].readable = stored[m].readable && attached;
    stored[m].generation = schedules[m].generation;
    stored[m].awaited = schedules[m].awaited;
    stored[m].moved = schedules[m].row_key != nullptr && saving.targets[which[m]].row_key != schedules[m].row_key;
    if (stored[m].moved) stored[m].row_key = schedules[m].row_key;
  }
  WipeOpened(rows, count);
  return stored;
}

}  // namespace token_refresh
