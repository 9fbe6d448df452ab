// Saving: one transaction for the whole batch; if that fails, row by row; what a token
// table rejects is parked. A compare-and-set that did not match is looked into (store_resolve.cpp).
#include <set>

#include "pg/feed.h"
#include "pg/outcome_log.h"
#include "pg/save_statements.h"
#include "pg/seal_outcomes.h"
#include "pg/store.h"
#include "pg/table_suspension.h"

namespace token_refresh {

namespace {

// How long a batch that failed may go row by row before the rest is parked: the loop has other
// credentials to serve.
constexpr Micros kRowByRowBudget = kSecond;

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

// The numbers of the outcomes of each token table, the built-in one first.
std::vector<std::vector<size_t>> ByTable(std::span<const Outcome> outcomes) {
  std::map<int32_t, std::vector<size_t>> tables;
  for (size_t i = 0; i < outcomes.size(); i++) tables[outcomes[i].claim.token_table].push_back(i);
  std::vector<std::vector<size_t>> groups;
  for (auto& [table, which] : tables) groups.push_back(std::move(which));
  return groups;
}

}  // namespace

std::vector<OpenNote> PgStore::NotesOf(std::span<const Outcome> outcomes, const std::vector<size_t>& which) const {
  std::set<int64_t> wanted;
  for (size_t i : which) wanted.insert(outcomes[i].claim.journal_id);
  std::vector<OpenNote> notes;
  for (const auto& [id, left] : journal_left_)
    if (left <= 0 || wanted.contains(id)) notes.push_back({id, left});
  return notes;
}

void PgStore::SettleNotes(std::span<const Outcome> outcomes, const std::vector<size_t>& settled) {
  for (size_t i : settled) {
    auto found = journal_left_.find(outcomes[i].claim.journal_id);
    if (found != journal_left_.end()) found->second--;
  }
  std::erase_if(journal_left_, [](const auto& note) { return note.second <= 0; });
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
  Result<std::vector<SealedTokens>> sealed = SealForTable(outcomes, which);
  if (!sealed.ok()) {
    ReportToLog(WARNING, ("cannot seal fresh tokens: " + sealed.error().message).c_str());
    return false;
  }
  std::vector<std::string> messages = Messages(outcomes);
  std::vector<std::string> names = ProviderNames(outcomes);
  std::vector<OpenNote> notes = NotesOf(outcomes, which);
  std::vector<char> written(outcomes.size()), outdated(outcomes.size());
  SaveWork work{now,      token_table, outcomes,    *sealed, expected,      which,   names,
                messages, notes,       from_parked, written, schedule_only, outdated};
  SetOwnWrites(0);
  std::optional<PostgresError> failed = RunPostgres(kActivitySave, [&] { WriteOutcomes(work); });
  if (failed) {
    if (failed->sqlstate == ERRCODE_QUERY_CANCELED) Suspend(token_table, FromTimestamp(GetCurrentTimestamp()));
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
  // Only a write tells that the owner's triggers have come to their senses; a read does not run them.
  if (!schedule_only) EndSuspension(token_table);
  std::vector<size_t> saved;
  for (size_t i : which) {
    (*verdicts)[i] = written[i] ? SaveVerdict::kSaved : SaveVerdict::kSuperseded;
    if (!written[i]) continue;
    saved.push_back(i);
    LogOutcome(outcomes[i], names[i]);
  }
  SettleNotes(outcomes, saved);
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
  // It may come from a batch, and quote another row of it.
  if (error.sqlstate == ERRCODE_QUERY_CANCELED) return "57014 the table's own triggers or functions took too long";
  std::vector<std::string_view> secrets = {outcome.claim.refresh_token.view()};
  if (outcome.tokens) secrets.push_back(outcome.tokens->access_token.view());
  secrets.push_back(outcome.NewRefreshToken().view());
  return std::string(unpack_sql_state(error.sqlstate)) + " " + ScrubText(error.message, secrets);
}

}  // namespace token_refresh
