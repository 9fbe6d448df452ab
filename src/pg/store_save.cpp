// Saving: one transaction for the whole batch; if that fails, row by row; what a token
// table rejects is parked. A compare-and-set that did not match is looked into: the same token
// in a new envelope is saved after all, other tokens are left alone. So are other tokens beside the same
// refresh token, unless the provider has replaced that: then what it gave is all there is.
#include "core/sealed_box.h"
#include "core/token_cipher.h"
#include "pg/catalog.h"
#include "pg/feed.h"
#include "pg/keys.h"
#include "pg/outcome_log.h"
#include "pg/save_statements.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"
#include "pg/store.h"
#include "pg/table_suspension.h"
#include "pg/token_rows.h"

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

// The numbers of the outcomes of each token table, the built-in one first.
std::vector<std::vector<size_t>> ByTable(std::span<const Outcome> outcomes) {
  std::map<int32_t, std::vector<size_t>> tables;
  for (size_t i = 0; i < outcomes.size(); i++) tables[outcomes[i].claim.token_table].push_back(i);
  std::vector<std::vector<size_t>> groups;
  for (auto& [table, which] : tables) groups.push_back(std::move(which));
  return groups;
}

}  // namespace

// The table has been read when the row was claimed.
TokenCipher PgStore::CipherOf(int32_t token_table) const {
  const TokenTable* table = KnownTokenTable(token_table);
  if (table == nullptr) return {};
  return {table->cipher, table->place, table->cipher_key != nullptr ? table->cipher_key : ""};
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

// As their table stores them.
Result<std::vector<SealedTokens>> PgStore::SealTokens(std::span<const Outcome> outcomes,
                                                      const std::vector<size_t>& which) const {
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return ring.error();
  std::vector<SealedTokens> sealed(outcomes.size());
  for (size_t i : which) {
    const Claim& claim = outcomes[i].claim;
    const TokenCipher cipher = CipherOf(claim.token_table);
    auto seal = [&](std::string_view column, const Secret& token) {
      return SealTokenToStore(**ring, cipher, claim.row_key, column, token.view(), claim.stored_refresh_token);
    };
    if (outcomes[i].tokens) {
      Result<std::string> access = seal("access_token", outcomes[i].tokens->access_token);
      if (!access.ok()) return access.error();
      sealed[i].access_token = std::move(*access);
    }
    if (outcomes[i].NewRefreshToken().empty()) continue;
    Result<std::string> refresh = seal("refresh_token", outcomes[i].NewRefreshToken());
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
  // Table by table, so that what one of them makes of it concerns no other.
  for (std::vector<size_t>& of_table : ByTable(outcomes)) {
    for (std::vector<size_t> which = std::move(of_table); !which.empty();) {
      SaveOrPark(now, outcomes, which, from_parked, expected, &verdicts);
      which = ResolveMissed(now, outcomes, which, from_parked, &expected, &verdicts);
    }
  }
  return verdicts;
}

void PgStore::SaveOrPark(Micros now, std::span<const Outcome> outcomes, const std::vector<size_t>& which,
                         bool from_parked, const std::vector<std::string>& expected,
                         std::vector<SaveVerdict>* verdicts) {
  PostgresError error;
  if (SaveOnce(now, outcomes, which, from_parked, expected, verdicts, &error)) return;
  const bool one_by_one = which.size() > 1 && !IsSuspended(outcomes[which.front()].claim.token_table, now);
  if (one_by_one) return SaveOneByOne(now, outcomes, which, from_parked, expected, verdicts);
  for (size_t i : which) GiveUpOnRow(now, outcomes, i, from_parked, expected, error, verdicts);
}

bool PgStore::SaveOnce(Micros now, std::span<const Outcome> outcomes, const std::vector<size_t>& which,
                       bool from_parked, const std::vector<std::string>& expected,
                       std::vector<SaveVerdict>* verdicts, PostgresError* error, bool schedule_only) {
  const int32_t token_table = outcomes[which.front()].claim.token_table;
  if (!schedule_only && IsSuspended(token_table, now)) {
    *error = {ERRCODE_QUERY_CANCELED, kSuspendedMessage};
    return false;
  }
  Result<std::vector<SealedTokens>> sealed = SealTokens(outcomes, which);
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
  SaveWork work{now,      token_table, outcomes,    *sealed, expected,      which,   names,
                messages, journals,    from_parked, written, schedule_only, outdated};
  SetOwnWrites(0);
  std::optional<PostgresError> failed = RunPostgres(kActivitySave, [&] { WriteOutcomes(work); });
  if (failed) {
    if (failed->sqlstate == ERRCODE_QUERY_CANCELED) Suspend(token_table, now);
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
  if (outcomes[i].HasNewTokens()) return Park(now, outcomes, {i}, from_parked, reason, verdicts);
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
  if (!rest.empty()) Park(now, outcomes, rest, from_parked, "saving took too long", verdicts);
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
    if (!stored.ok() || !(*stored)[m].readable) {
      (*verdicts)[i] = SaveVerdict::kNotStored;
      continue;
    }
    const StoredToken& current = (*stored)[m];
    const bool same_envelope = current.exists && current.refresh_token == (*expected)[i];
    if (!same_envelope && !SameToken(outcome.claim, current)) {
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
    Park(now, outcomes, {i}, from_parked, reason, verdicts);
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
  SaveWork work{now, 0, outcomes, {}, {}, superseded, names, messages, {}, false, {}};
  auto error = RunPostgres(kActivitySave, [&] {
    if (discard != Discard::kNothing) DeleteParkedResults(work, discard == Discard::kUnrotated);
    WriteAudit(work, "superseded");
    DeleteJournals(journals);
  });
  if (error) Complain("auditing superseded answers", *error);
}

// Whether current is the token that was claimed, in a new envelope (rotate_keys does that).
bool PgStore::SameToken(const Claim& claim, const StoredToken& current) const {
  if (current.refresh_token.empty()) return false;
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return false;
  Result<Secret> opened = OpenRefreshToken(**ring, claim, current.refresh_token, current.opened.view());
  return opened.ok() && opened->Equals(claim.StoredRefreshToken().view());
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
