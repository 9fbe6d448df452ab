// Saving: one transaction for the whole batch; if that fails, row by row; what a token
// table rejects is parked. A compare-and-set that did not match is looked into (store_resolve.cpp).
#include <set>

#include "pg/catalog.h"
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
    messages[i] = outcomes[i].remark;
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
    in_flight_.erase(outcomes[i].claim.schedule_id);
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
  Saving saving{now, outcomes, from_parked, {}, std::vector<SaveVerdict>(outcomes.size(), SaveVerdict::kNotStored)};
  saving.targets.reserve(outcomes.size());
  for (const Outcome& outcome : outcomes)
    saving.targets.push_back({outcome.claim.row_key, outcome.claim.stored_refresh_token});
  // Table by table, so that what one of them makes of it concerns no other.
  for (std::vector<size_t>& of_table : ByTable(outcomes)) {
    for (std::vector<size_t> which = std::move(of_table); !which.empty();) {
      SaveOrPark(&saving, which);
      which = ResolveMissed(&saving, which);
    }
  }
  if (!from_parked) CountUnsaved(saving);
  return std::move(saving.verdicts);
}

void PgStore::CountUnsaved(const Saving& saving) {
  for (size_t i = 0; i < saving.outcomes.size(); i++) {
    const Outcome& outcome = saving.outcomes[i];
    if (saving.verdicts[i] == SaveVerdict::kNotStored && outcome.HasNewTokens())
      unsaved_[outcome.claim.schedule_id] = outcome.claim.token_table;
    else
      unsaved_.erase(outcome.claim.schedule_id);
  }
}

void PgStore::SaveOrPark(Saving* saving, const std::vector<size_t>& which) {
  PostgresError error;
  if (SaveOnce(saving, which, &error)) return;
  const int32_t token_table = saving->outcomes[which.front()].claim.token_table;
  if (which.size() > 1 && !IsSuspended(token_table, saving->now)) return SaveOneByOne(saving, which);
  for (size_t i : which) GiveUpOnRow(saving, i, error);
}

bool PgStore::SaveOnce(Saving* saving, const std::vector<size_t>& which, PostgresError* error, bool schedule_only) {
  const std::span<const Outcome> outcomes = saving->outcomes;
  const int32_t token_table = outcomes[which.front()].claim.token_table;
  if (!schedule_only && IsSuspended(token_table, saving->now)) {
    *error = {ERRCODE_QUERY_CANCELED, kSuspendedMessage};
    return false;
  }
  Result<std::vector<SealedTokens>> sealed = SealForTable(outcomes, saving->targets, which);
  if (!sealed.ok()) {
    ReportToLog(WARNING, ("cannot seal fresh tokens: " + sealed.error().message).c_str());
    return false;
  }
  std::vector<std::string> messages = Messages(outcomes);
  std::vector<std::string> names = ProviderNames(outcomes);
  std::vector<OpenNote> notes = NotesOf(outcomes, which);
  std::vector<char> written(outcomes.size()), outdated(outcomes.size());
  SaveWork work{saving->now, token_table, outcomes, *sealed, saving->targets, which, names,
                messages,    notes,       saving->from_parked, written, schedule_only, outdated};
  std::optional<PostgresError> failed = RunPostgres(kActivitySave, [&] { WriteOutcomes(work); });
  if (failed) {
    std::vector<size_t> current;
    for (size_t i : which)
      if (!outdated[i]) current.push_back(i);
    if (current.size() < which.size()) {
      for (size_t i : which)
        if (outdated[i]) saving->verdicts[i] = SaveVerdict::kSuperseded;
      return current.empty() || SaveOnce(saving, current, error, schedule_only);
    }
    *error = std::move(*failed);
    return false;
  }
  std::vector<size_t> saved;
  for (size_t i : which) {
    saving->verdicts[i] = written[i] ? SaveVerdict::kSaved : SaveVerdict::kSuperseded;
    if (!written[i]) continue;
    saved.push_back(i);
    LogOutcome(outcomes[i], names[i]);
  }
  SettleNotes(outcomes, saved);
  return true;
}

void PgStore::GiveUpOnRow(Saving* saving, size_t i, const PostgresError& error) {
  const Outcome& outcome = saving->outcomes[i];
  std::string reason = error.sqlstate == 0 ? "no key to seal with" : DescribeRejection(outcome, error);
  LogRejected(outcome, ProviderName(outcome.claim.provider_id), reason);
  if (outcome.HasNewTokens()) return Park(saving, {i}, reason);
  // A lock goes away by itself. A row that rejects its new status must not keep a dead grant in use.
  PostgresError again;
  // What was learned of a row that is locked is in the schedule at least.
  if (outcome.introspected || error.sqlstate != ERRCODE_LOCK_NOT_AVAILABLE) (void)SaveOnce(saving, {i}, &again, true);
}

void PgStore::SaveOneByOne(Saving* saving, const std::vector<size_t>& which) {
  Micros started = FromTimestamp(GetCurrentTimestamp());
  std::vector<size_t> rest;
  for (size_t i : which) {
    if (FromTimestamp(GetCurrentTimestamp()) - started > kRowByRowBudget) {
      if (saving->outcomes[i].HasNewTokens()) rest.push_back(i);
      continue;
    }
    PostgresError error;
    if (!SaveOnce(saving, {i}, &error)) GiveUpOnRow(saving, i, error);
  }
  if (!rest.empty()) Park(saving, rest, "saving took too long");
}

std::string PgStore::DescribeRejection(const Outcome& outcome, const PostgresError& error) const {
  // It may come from a batch, and quote another row of it.
  if (error.sqlstate == ERRCODE_QUERY_CANCELED) return "57014 the table's own triggers or functions took too long";
  // The owner's own words may quote any row of the table.
  if (outcome.claim.token_table != kBuiltInTokenTable && !error.names_objects_only)
    return unpack_sql_state(error.sqlstate);
  std::vector<std::string_view> secrets = {outcome.claim.refresh_token.view()};
  if (outcome.tokens) secrets.push_back(outcome.tokens->access_token.view());
  secrets.push_back(outcome.NewRefreshToken().view());
  return std::string(unpack_sql_state(error.sqlstate)) + " " + ScrubText(error.message, secrets);
}

}  // namespace token_refresh
