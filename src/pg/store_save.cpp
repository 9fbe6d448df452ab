// Saving: one transaction for the whole batch; if that fails, row by row; what a token
// table rejects is parked. A compare-and-set that did not match is looked into: the same token
// in a new envelope is saved after all, other tokens are left alone. So are other tokens beside the same
// refresh token, unless the provider has replaced that: then what it gave is all there is.
#include "core/sealed_box.h"
#include "pg/catalog.h"
#include "pg/keys.h"
#include "pg/outcome_log.h"
#include "pg/save_statements.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"
#include "pg/store.h"

namespace token_refresh {

namespace {

// How long a batch that failed may go row by row before the rest is parked: the loop has other
// credentials to serve.
constexpr Micros kRowByRowBudget = kSecond;

Statement load_generation = {
    "SELECT generation FROM token_refresh.schedule WHERE id = $1", 1, {INT8OID}, nullptr};

std::vector<std::string> Messages(std::span<const Outcome> outcomes) {
  std::vector<std::string> messages(outcomes.size());
  for (size_t i = 0; i < outcomes.size(); i++) {
    if (outcomes[i].failure) messages[i] = outcomes[i].failure->message;
    if (!outcomes[i].tokens) continue;
    for (const std::string& warning : outcomes[i].tokens->warnings)
      messages[i] += (messages[i].empty() ? "" : "; ") + warning;
  }
  return messages;
}

// Whether the answer holds another refresh token than was sent. One that is parked does, or it would not be there.
bool Rotated(const Outcome& outcome, bool from_parked) {
  const Secret& fresh = outcome.tokens->refresh_token;
  return !fresh.empty() && (from_parked || !fresh.Equals(outcome.claim.refresh_token.view()));
}

std::vector<size_t> AllOf(std::span<const Outcome> outcomes) {
  std::vector<size_t> all(outcomes.size());
  for (size_t i = 0; i < all.size(); i++) all[i] = i;
  return all;
}

}  // namespace

const std::string& PgStore::TokenPlace(int32_t token_table) const {
  static const std::string unknown;
  auto found = token_places_.find(token_table);
  return found == token_places_.end() ? unknown : found->second;
}

std::vector<int64_t> PgStore::FinishedJournals(std::span<const Outcome> outcomes,
                                               const std::vector<size_t>& which) const {
  std::unordered_map<int64_t, int> saved;
  for (size_t i : which)
    if (outcomes[i].claim.journal_id != 0) saved[outcomes[i].claim.journal_id]++;
  std::vector<int64_t> finished;
  for (const auto& [journal, left] : journal_left_) {
    auto found = saved.find(journal);
    if (left <= (found == saved.end() ? 0 : found->second)) finished.push_back(journal);
  }
  return finished;
}

void PgStore::ForgetJournals(std::span<const Outcome> outcomes, const std::vector<size_t>& which) {
  for (size_t i : which) {
    auto found = journal_left_.find(outcomes[i].claim.journal_id);
    if (found != journal_left_.end() && --found->second <= 0) journal_left_.erase(found);
  }
}

Result<std::vector<SealedTokens>> PgStore::SealTokens(std::span<const Outcome> outcomes,
                                                      const std::vector<size_t>& which, bool for_parking) const {
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return ring.error();
  std::vector<SealedTokens> sealed(outcomes.size());
  for (size_t i : which) {
    if (!outcomes[i].HasNewTokens()) continue;
    const Claim& claim = outcomes[i].claim;
    std::string parked_key = ParkedRowKey(claim.token_table, claim.row_key);
    std::string_view table = for_parking ? std::string_view(kParkedPlace) : std::string_view(TokenPlace(claim.token_table));
    std::string_view row = for_parking ? std::string_view(parked_key) : std::string_view(claim.row_key);
    if (outcomes[i].tokens) {
      Result<std::string> access =
          Seal(**ring, SealedPlace{table, row, "access_token"}, outcomes[i].tokens->access_token.view());
      if (!access.ok()) return access.error();
      sealed[i].access_token = std::move(*access);
    }
    if (outcomes[i].NewRefreshToken().empty()) continue;
    Result<std::string> refresh =
        Seal(**ring, SealedPlace{table, row, "refresh_token"}, outcomes[i].NewRefreshToken().view());
    if (!refresh.ok()) return refresh.error();
    sealed[i].refresh_token = std::move(*refresh);
  }
  return sealed;
}

std::vector<std::string> PgStore::ProviderNames(std::span<const Outcome> outcomes) const {
  std::vector<std::string> names;
  names.reserve(outcomes.size());
  for (const Outcome& outcome : outcomes) names.push_back(ProviderName(outcome.claim.provider_id));
  return names;
}

std::vector<SaveVerdict> PgStore::Save(Micros now, std::span<const Outcome> outcomes) {
  return SaveAll(now, outcomes, false);
}

std::vector<SaveVerdict> PgStore::SaveAll(Micros now, std::span<const Outcome> outcomes, bool from_parked) {
  std::vector<SaveVerdict> verdicts(outcomes.size(), SaveVerdict::kNotStored);
  std::vector<std::string> expected;
  expected.reserve(outcomes.size());
  for (const Outcome& outcome : outcomes) expected.push_back(outcome.claim.stored_refresh_token);
  for (std::vector<size_t> which = AllOf(outcomes); !which.empty();) {
    SaveOrPark(now, outcomes, which, from_parked, expected, &verdicts);
    which = ResolveMissed(now, outcomes, which, from_parked, &expected, &verdicts);
  }
  return verdicts;
}

void PgStore::SaveOrPark(Micros now, std::span<const Outcome> outcomes, const std::vector<size_t>& which,
                         bool from_parked, const std::vector<std::string>& expected,
                         std::vector<SaveVerdict>* verdicts) {
  PostgresError error;
  if (SaveOnce(now, outcomes, which, from_parked, expected, verdicts, &error)) return;
  if (which.size() == 1)
    GiveUpOnRow(now, outcomes, which.front(), from_parked, expected, error, verdicts);
  else
    SaveOneByOne(now, outcomes, which, from_parked, expected, verdicts);
}

bool PgStore::SaveOnce(Micros now, std::span<const Outcome> outcomes, const std::vector<size_t>& which,
                       bool from_parked, const std::vector<std::string>& expected,
                       std::vector<SaveVerdict>* verdicts, PostgresError* error, bool schedule_only) {
  Result<std::vector<SealedTokens>> sealed = SealTokens(outcomes, which, false);
  if (!sealed.ok()) {
    ReportToLog(WARNING, ("cannot seal fresh tokens: " + sealed.error().message).c_str());
    return false;
  }
  for (size_t i : which)
    if (outcomes[i].tokens) (*sealed)[i].rotated = Rotated(outcomes[i], from_parked);
  std::vector<std::string> messages = Messages(outcomes);
  std::vector<std::string> names = ProviderNames(outcomes);
  std::vector<int64_t> journals = FinishedJournals(outcomes, which);
  std::vector<char> written(outcomes.size()), outdated(outcomes.size());
  SaveWork work{now,      outcomes, *sealed,     expected, which,         names,
                messages, journals, from_parked, written,  schedule_only, outdated};
  std::optional<PostgresError> failed = RunPostgres(kActivitySave, [&] { WriteOutcomes(work); });
  if (failed) {
    std::vector<size_t> current;
    for (size_t i : which)
      if (!outdated[i]) current.push_back(i);
    if (current.size() < which.size()) {
      for (size_t i : which)
        if (outdated[i]) (*verdicts)[i] = SaveVerdict::kSuperseded;
      return current.empty() || SaveOnce(now, outcomes, current, from_parked, expected, verdicts, error, schedule_only);
    }
    *error = std::move(*failed);
    return false;
  }
  for (size_t i : which) {
    (*verdicts)[i] = written[i] ? SaveVerdict::kSaved : SaveVerdict::kSuperseded;
    if (!written[i]) continue;
    ForgetJournals(outcomes, {i});
    LogOutcome(outcomes[i], names[i]);
  }
  return true;
}

void PgStore::GiveUpOnRow(Micros now, std::span<const Outcome> outcomes, size_t i, bool from_parked,
                          const std::vector<std::string>& expected, const PostgresError& error,
                          std::vector<SaveVerdict>* verdicts) {
  std::string reason = error.sqlstate == 0 ? "no key to seal with" : DescribeRejection(outcomes[i], error);
  LogRejected(outcomes[i], ProviderName(outcomes[i].claim.provider_id), reason);
  if (outcomes[i].HasNewTokens()) return Park(now, outcomes, {i}, from_parked, expected, reason, verdicts);
  // A lock goes away by itself. A row that rejects its new status must not keep a dead grant in use.
  PostgresError again;
  if (error.sqlstate != ERRCODE_LOCK_NOT_AVAILABLE)
    (void)SaveOnce(now, outcomes, {i}, from_parked, expected, verdicts, &again, true);
}

void PgStore::SaveOneByOne(Micros now, std::span<const Outcome> outcomes, const std::vector<size_t>& which,
                           bool from_parked, const std::vector<std::string>& expected,
                           std::vector<SaveVerdict>* verdicts) {
  Micros started = FromTimestamp(GetCurrentTimestamp());
  std::vector<size_t> rest;
  for (size_t i : which) {
    if (FromTimestamp(GetCurrentTimestamp()) - started > kRowByRowBudget) {
      if (outcomes[i].HasNewTokens()) rest.push_back(i);
      continue;
    }
    PostgresError error;
    if (!SaveOnce(now, outcomes, {i}, from_parked, expected, verdicts, &error))
      GiveUpOnRow(now, outcomes, i, from_parked, expected, error, verdicts);
  }
  if (!rest.empty()) Park(now, outcomes, rest, from_parked, expected, "saving took too long", verdicts);
}

std::string PgStore::DescribeRejection(const Outcome& outcome, const PostgresError& error) const {
  std::vector<std::string_view> secrets = {outcome.claim.refresh_token.view()};
  if (outcome.tokens) secrets.push_back(outcome.tokens->access_token.view());
  secrets.push_back(outcome.NewRefreshToken().view());
  return std::string(unpack_sql_state(error.sqlstate)) + " " + ScrubText(error.message, secrets);
}

// Looks into those whose compare-and-set did not match. Returns the ones that hold the same token in a
// new envelope, with that envelope in expected, to be saved once more; settles the verdict of the others.
std::vector<size_t> PgStore::ResolveMissed(Micros now, std::span<const Outcome> outcomes,
                                           const std::vector<size_t>& which, bool from_parked,
                                           std::vector<std::string>* expected, std::vector<SaveVerdict>* verdicts) {
  std::vector<size_t> missed, resealed, replanned, outdated, superseded;
  for (size_t i : which)
    if ((*verdicts)[i] == SaveVerdict::kSuperseded) missed.push_back(i);
  if (missed.empty()) return resealed;
  Result<std::vector<StoredToken>> stored = LoadStored(outcomes, missed);
  for (size_t m = 0; m < missed.size(); m++) {
    size_t i = missed[m];
    const Outcome& outcome = outcomes[i];
    if (!stored.ok()) {
      (*verdicts)[i] = SaveVerdict::kNotStored;
      continue;
    }
    const StoredToken& current = (*stored)[m];
    const bool same_envelope = current.exists && current.refresh_token == (*expected)[i];
    if (!same_envelope && !SameToken(outcome.claim, current.refresh_token)) {
      if (!current.exists) (*verdicts)[i] = SaveVerdict::kGone;
      superseded.push_back(i);
    } else if (outcome.tokens && !Rotated(outcome, from_parked) && current.generation != outcome.claim.generation) {
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
  AuditSuperseded(now, outcomes, replanned, Discard::kNothing);
  AuditSuperseded(now, outcomes, outdated, Discard::kUnrotated);
  AuditSuperseded(now, outcomes, superseded, Discard::kAll);
  return resealed;
}

// The table has taken the UPDATE without an error and without effect, as a trigger or a rule can make it.
void PgStore::HandleIgnored(Micros now, std::span<const Outcome> outcomes, size_t i, bool from_parked,
                            const std::vector<std::string>& expected, std::vector<SaveVerdict>* verdicts) {
  const char* reason = "a trigger or rule of the table has dropped the update";
  (*verdicts)[i] = SaveVerdict::kNotStored;
  PostgresError error;
  if (outcomes[i].HasNewTokens())
    Park(now, outcomes, {i}, from_parked, expected, reason, verdicts);
  else if (SaveOnce(now, outcomes, {i}, from_parked, expected, verdicts, &error, true) &&
           (*verdicts)[i] == SaveVerdict::kSuperseded)
    return;  // the row was planned anew meanwhile: the failure belongs to the plan before
  LogRejected(outcomes[i], ProviderName(outcomes[i].claim.provider_id), reason);
}

void PgStore::AuditSuperseded(Micros now, std::span<const Outcome> outcomes, const std::vector<size_t>& superseded,
                              Discard discard) {
  if (superseded.empty()) return;
  std::vector<int64_t> journals = FinishedJournals(outcomes, superseded);
  ForgetJournals(outcomes, superseded);
  std::vector<std::string> messages(outcomes.size());
  std::vector<std::string> names = ProviderNames(outcomes);
  SaveWork work{now, outcomes, {}, {}, superseded, names, messages, {}, false, {}};
  auto error = RunPostgres(kActivitySave, [&] {
    if (discard != Discard::kNothing) DeleteParkedResults(work, discard == Discard::kUnrotated);
    WriteAudit(work, "superseded");
    DeleteJournals(journals);
  });
  if (error) Complain("auditing superseded answers", *error);
}

// Whether current is the token that was claimed, in a new envelope (rotate_keys does that).
bool PgStore::SameToken(const Claim& claim, const std::string& current) const {
  if (current.empty() || current == claim.stored_refresh_token) return false;
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return false;
  SealedPlace place{TokenPlace(claim.token_table), claim.row_key, "refresh_token"};
  Result<Secret> then = Open(**ring, place, claim.stored_refresh_token);
  Result<Secret> now = Open(**ring, place, current);
  return then.ok() && now.ok() && then->Equals(now->view());
}

Result<std::vector<PgStore::StoredToken>> PgStore::LoadStored(std::span<const Outcome> outcomes,
                                                              const std::vector<size_t>& which) {
  MemoryContextReset(scratch_context_);
  struct Plain {
    bool exists;
    bytea* refresh_token;
    int64_t generation;
  };
  Plain* plain = static_cast<Plain*>(MemoryContextAllocZero(scratch_context_, sizeof(Plain) * which.size()));
  auto error = RunPostgres(kActivitySave, [&] {
    for (size_t m = 0; m < which.size(); m++) {
      const Claim& claim = outcomes[which[m]].claim;
      Datum values[] = {MakeArray(1, INT4OID, [](int, bool*) { return Int32GetDatum(0); }),
                        MakeArray(1, TEXTOID, [&](int, bool*) { return TextDatum(claim.row_key); })};
      plain[m].exists = Execute(&StatementsFor(claim.token_table)->load, values, false) > 0;
      if (!plain[m].exists) continue;
      bool is_null;
      Datum token = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 4, &is_null);
      MemoryContext previous = MemoryContextSwitchTo(scratch_context_);
      plain[m].refresh_token = is_null ? nullptr : DatumGetByteaPCopy(token);
      MemoryContextSwitchTo(previous);
      Datum schedule_id[] = {Int64GetDatum(claim.schedule_id)};
      bool scheduled = Execute(&load_generation, schedule_id, false) > 0;
      plain[m].generation =
          scheduled ? DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null)) : -1;
    }
  });
  if (error) return Complain("reading what is stored", *error);
  std::vector<StoredToken> stored(which.size());
  for (size_t m = 0; m < which.size(); m++) {
    stored[m].exists = plain[m].exists;
    stored[m].generation = plain[m].generation;
    if (plain[m].refresh_token != nullptr)
      stored[m].refresh_token.assign(VARDATA_ANY(plain[m].refresh_token), VARSIZE_ANY_EXHDR(plain[m].refresh_token));
  }
  return stored;
}

}  // namespace token_refresh
