// Answers whose compare-and-set did not match. The same token in a new envelope is saved after all, other tokens
// are left alone, and where nobody can tell fresh tokens are parked. Other tokens beside the same refresh token
// are left alone as well, unless the provider has replaced that: then what it gave is all there is.
#include "pg/keys.h"
#include "pg/outcome_log.h"
#include "pg/save_statements.h"
#include "pg/seal_outcomes.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"
#include "pg/store.h"
#include "pg/token_rows.h"

namespace token_refresh {

namespace {

Statement load_generation = {
    "SELECT generation FROM token_refresh.schedule WHERE id = $1", 1, {INT8OID}, nullptr};

}  // namespace

// Looks into those whose compare-and-set did not match. Returns the ones that hold the same token in a
// new envelope, with that envelope in expected, to be saved once more; settles the verdict of the others.
std::vector<size_t> PgStore::ResolveMissed(Micros now, std::span<const Outcome> outcomes,
                                           const std::vector<size_t>& which, bool from_parked,
                                           std::vector<std::string>* expected, std::vector<SaveVerdict>* verdicts) {
  std::vector<size_t> missed, resealed, unclear, replanned, outdated, superseded;
  for (size_t i : which)
    if ((*verdicts)[i] == SaveVerdict::kSuperseded) missed.push_back(i);
  if (missed.empty()) return resealed;
  Result<std::vector<StoredToken>> stored = LoadStored(outcomes, missed);
  Result<const KeyRing*> ring = LoadKeyRing();
  for (size_t m = 0; m < missed.size(); m++) {
    size_t i = missed[m];
    const Outcome& outcome = outcomes[i];
    if (!stored.ok() || !(*stored)[m].readable) {
      (*verdicts)[i] = SaveVerdict::kNotStored;
      continue;
    }
    const StoredToken& current = (*stored)[m];
    const bool same_envelope = !current.refresh_token.empty() && current.refresh_token == (*expected)[i];
    const Sameness sameness = same_envelope ? Sameness::kSame : Compare(ring, outcome.claim, current);
    if (sameness == Sameness::kOther) {
      if (!current.exists) (*verdicts)[i] = SaveVerdict::kGone;
      superseded.push_back(i);
    } else if (sameness == Sameness::kUnclear) {
      unclear.push_back(i);
    } else if (outcome.tokens && !Rotated(outcome) && current.generation != outcome.claim.generation) {
      outdated.push_back(i);
    } else if (same_envelope) {
      HandleIgnored(now, outcomes, i, from_parked, *expected, verdicts);
      if ((*verdicts)[i] == SaveVerdict::kSuperseded) replanned.push_back(i);
    } else {
      (*expected)[i] = current.refresh_token;
      (*verdicts)[i] = SaveVerdict::kNotStored;
      resealed.push_back(i);
    }
  }
  KeepUnclear(now, outcomes, unclear, from_parked, verdicts);
  AuditSuperseded(now, outcomes, replanned, Discard::kNothing, from_parked, verdicts);
  AuditSuperseded(now, outcomes, outdated, Discard::kUnrotated, from_parked, verdicts);
  AuditSuperseded(now, outcomes, superseded, Discard::kAll, from_parked, verdicts);
  return resealed;
}

// What stands in their rows does not open, as when its key has not reached this process yet. It may well be the
// token that was claimed: fresh tokens are kept until that can be seen, and so is the verdict on the others.
void PgStore::KeepUnclear(Micros now, std::span<const Outcome> outcomes, const std::vector<size_t>& unclear,
                          bool from_parked, std::vector<SaveVerdict>* verdicts) {
  constexpr const char* kReason = "the refresh token in the row does not open with the keys at hand";
  std::vector<size_t> fresh;
  std::vector<ParkedKey> parked;
  for (size_t i : unclear) {
    const Claim& claim = outcomes[i].claim;
    (*verdicts)[i] = SaveVerdict::kNotStored;
    if (from_parked)
      parked.push_back({claim.token_table, claim.row_key.c_str()});
    else if (outcomes[i].HasNewTokens())
      fresh.push_back(i);
    if (!from_parked) LogRejected(outcomes[i], ProviderName(claim.provider_id), kReason);
  }
  if (!fresh.empty()) Park(now, outcomes, fresh, false, kReason, verdicts);
  Postpone(parked, kReason, 0);
}

// The table has taken the UPDATE without an error and without effect, as a trigger or a rule can make it.
void PgStore::HandleIgnored(Micros now, std::span<const Outcome> outcomes, size_t i, bool from_parked,
                            const std::vector<std::string>& expected, std::vector<SaveVerdict>* verdicts) {
  const char* reason = "a trigger or rule of the table has dropped the update";
  (*verdicts)[i] = SaveVerdict::kNotStored;
  PostgresError error;
  if (outcomes[i].HasNewTokens())
    Park(now, outcomes, {i}, from_parked, reason, verdicts);
  else if (SaveOnce(now, outcomes, {i}, from_parked, expected, verdicts, &error, true) &&
           (*verdicts)[i] == SaveVerdict::kSuperseded)
    return;  // the row was planned anew meanwhile: the failure belongs to the plan before
  LogRejected(outcomes[i], ProviderName(outcomes[i].claim.provider_id), reason);
}

void PgStore::AuditSuperseded(Micros now, std::span<const Outcome> outcomes, const std::vector<size_t>& superseded,
                              Discard discard, bool from_parked, std::vector<SaveVerdict>* verdicts) {
  if (superseded.empty()) return;
  std::vector<OpenNote> notes = NotesOf(outcomes, superseded);
  std::vector<std::string> messages(outcomes.size());
  std::vector<std::string> names = ProviderNames(outcomes);
  SaveWork work{now, 0, outcomes, {}, {}, superseded, names, messages, notes, false, {}};
  auto error = RunPostgres(kActivitySave, [&] {
    if (discard != Discard::kNothing) DeleteParkedResults(work, discard == Discard::kUnrotated);
    WriteAudit(work, "superseded");
    DeleteFinishedNotes(work);
  });
  if (!error) return SettleNotes(outcomes, superseded);
  Complain("auditing superseded answers", *error);
  // What is parked comes up again by itself.
  if (from_parked) return;
  for (size_t i : superseded) (*verdicts)[i] = SaveVerdict::kNotStored;
}

// Whether current is the token that was claimed, if need be in a new envelope (rotate_keys does that).
PgStore::Sameness PgStore::Compare(const Result<const KeyRing*>& ring, const Claim& claim,
                                   const StoredToken& current) const {
  if (current.refresh_token.empty()) return Sameness::kOther;
  if (!ring.ok()) return Sameness::kUnclear;
  Result<Secret> opened = OpenRefreshToken(**ring, claim, current.refresh_token, current.opened.view());
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

Result<std::vector<PgStore::StoredToken>> PgStore::LoadStored(std::span<const Outcome> outcomes,
                                                              const std::vector<size_t>& which) {
  MemoryContextReset(scratch_context_);
  const int count = static_cast<int>(which.size());
  TokenRow* rows = static_cast<TokenRow*>(MemoryContextAllocZero(scratch_context_, sizeof(TokenRow) * which.size()));
  int64_t* generations = static_cast<int64_t*>(MemoryContextAllocZero(scratch_context_, sizeof(int64_t) * which.size()));
  auto error = RunPostgres(kActivitySave, [&] {
    const char** keys = static_cast<const char**>(palloc(sizeof(char*) * count));
    for (int m = 0; m < count; m++) keys[m] = outcomes[which[m]].claim.row_key.c_str();
    ReadTokenRows(GetTokenTable(outcomes[which.front()].claim.token_table), keys, count, scratch_context_, rows);
    for (int m = 0; m < count; m++) {
      Datum schedule_id[] = {Int64GetDatum(outcomes[which[m]].claim.schedule_id)};
      bool is_null;
      generations[m] = -1;
      if (Execute(&load_generation, schedule_id, false) > 0)
        generations[m] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
    }
  });
  if (error) return Complain("reading what is stored", *error);
  std::vector<StoredToken> stored(which.size());
  for (int m = 0; m < count; m++) {
    stored[m] = ToStored(rows[m]);
    stored[m].generation = generations[m];
  }
  WipeOpened(rows, count);
  return stored;
}

}  // namespace token_refresh
