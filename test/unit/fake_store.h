// A store in memory that keeps the contract of core/store.h and can be told to fail. For unit tests and simulations
// of the refresh engine.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/store.h"

namespace token_refresh {

class FakeStore : public Store {
 public:
  struct Row {
    int32_t provider_id = 1;
    std::string refresh_token;
    std::string access_token;
    std::optional<Micros> due_at, expires_at, last_refreshed_at;
    std::string status = "connected";
    int32_t attempts = 0;
    bool lost_response = false;
    int64_t generation = 1;
    std::optional<FailureClass> failure;
    std::string message;
    int writes = 0;
    int introspections = 0;
    std::string client_id, client_secret;  // of its own
    int32_t token_table = 1;

    // What the world does to the row.
    bool locked = false;          // somebody else holds it
    bool unreadable = false;      // no key opens it
    bool rejects_writes = false;  // a constraint of the application
    int fail_saves = 0;           // so many saves of it fail
    bool hides_access_token = false;  // it cannot be read

    std::string parked_refresh_token;  // empty: nothing is parked
    std::optional<Micros> parked_due_at;
  };

  // A ciphertext differs from what it seals.
  static std::string Sealed(std::string_view token) { return "sealed(" + std::string(token) + ")"; }

  uint64_t ProvidersVersion() override { return providers_version; }

  Result<std::vector<std::shared_ptr<const Provider>>> LoadProviders() override {
    loads++;
    if (TakeFault(fail_loads)) return Error{ErrorCode::kUnavailable, "faked", ""};
    loaded_version_ = providers_version;
    return providers;
  }

  Result<DueList> ListDue(Micros now, std::span<const DueQuota> quotas) override {
    lists++;
    if (TakeFault(fail_lists)) return Error{ErrorCode::kUnavailable, "faked", ""};
    DueList list;
    for (const DueQuota& quota : quotas) ListProvider(now, quota, list);
    return list;
  }

  Result<ClaimBatch> ClaimRows(Micros now, std::span<const ClaimRequest> requests) override {
    claim_calls++;
    if (TakeFault(fail_claims)) return Error{ErrorCode::kUnavailable, "faked", ""};
    if (const auto meanwhile = std::exchange(before_claim, nullptr)) meanwhile();
    ClaimBatch batch;
    batch.providers_changed = loaded_version_ != providers_version;
    if (batch.providers_changed) return batch;
    const int64_t journal_id = next_journal_id_++;
    for (const ClaimRequest& request : requests) {
      if (const std::optional<Refusal> refusal = Judge(now, request)) {
        batch.refused.push_back({request.schedule_id, *refusal});
        if (*refusal == Refusal::kParked) RetryParked(now, rows.at(request.schedule_id));
        continue;
      }
      EXPECT_FALSE(journal.contains(request.schedule_id)) << "claimed twice: " << request.schedule_id;
      journal[request.schedule_id] = journal_id;
      batch.claims.push_back(MakeClaim(request, journal_id));
      if (batch.claims.back().only_asked) only_asked.insert(request.schedule_id);
    }
    return batch;
  }

  Status NoteRefresh(const Claim& claim) override {
    if (TakeFault(fail_notes)) return Error{ErrorCode::kUnavailable, "faked", ""};
    EXPECT_EQ(only_asked.erase(claim.schedule_id), 1u) << "noted as a refresh already: " << claim.schedule_id;
    return Ok();
  }

  std::vector<SaveVerdict> Save(Micros now, std::span<const Outcome> outcomes) override {
    saves++;
    std::vector<SaveVerdict> verdicts;
    for (const Outcome& outcome : outcomes) {
      const SaveVerdict verdict = SaveOne(now, outcome);
      if (verdict != SaveVerdict::kNotStored) {
        journal.erase(outcome.claim.schedule_id);
        only_asked.erase(outcome.claim.schedule_id);
      }
      if (on_saved) on_saved(outcome, verdict);
      verdicts.push_back(verdict);
    }
    return verdicts;
  }

  // What the real store does at start: a row that is still claimed may have lost an answer.
  void Restart() {
    for (const auto& [id, journal_id] : journal)
      if (const auto row = rows.find(id); row != rows.end() && !only_asked.contains(id))
        row->second.lost_response = true;
    journal.clear();
    only_asked.clear();
  }

  // An application stores new tokens.
  void SignIn(int64_t id, std::string_view refresh_token, Micros due_at, Micros expires_at) {
    Row& row = rows[id];
    row.refresh_token = refresh_token;
    row.due_at = due_at;
    row.expires_at = expires_at;
    row.status = "connected";
    row.attempts = 0;
    row.lost_response = false;
    row.failure.reset();
    row.parked_refresh_token.clear();
    row.generation++;
  }

  std::vector<std::shared_ptr<const Provider>> providers;
  uint64_t providers_version = 1;
  std::map<int64_t, Row> rows;
  std::map<int64_t, int64_t> journal;  // claimed rows
  std::set<int64_t> only_asked;        // of these, according to the journal
  std::function<void(const Outcome&, SaveVerdict)> on_saved;
  std::function<void()> before_claim;  // called once, by the next ClaimRows

  int fail_loads = 0, fail_lists = 0, fail_claims = 0, fail_saves = 0, fail_notes = 0;  // so many calls fail
  int loads = 0, lists = 0, claim_calls = 0, saves = 0;

 private:
  static bool TakeFault(int& left) {
    if (left <= 0) return false;
    left--;
    return true;
  }

  void ListProvider(Micros now, const DueQuota& quota, DueList& list) {
    std::vector<std::pair<Micros, int64_t>> due;
    for (const auto& [id, row] : rows) {
      if (row.provider_id != quota.provider_id || !row.due_at) continue;
      if (*row.due_at <= now)
        due.push_back({*row.due_at, id});
      else
        list.next_due_at = std::min(*row.due_at, list.next_due_at.value_or(*row.due_at));
    }
    std::sort(due.begin(), due.end());
    if (due.size() > static_cast<size_t>(quota.limit)) due.resize(static_cast<size_t>(quota.limit));
    for (const auto& [due_at, id] : due) list.rows.push_back({id, quota.provider_id});
  }

  std::optional<Refusal> Judge(Micros now, const ClaimRequest& request) const {
    const auto found = rows.find(request.schedule_id);
    if (found == rows.end()) return Refusal::kNotFound;
    const Row& row = found->second;
    if (row.locked) return Refusal::kLocked;
    if (request.on_demand && request.seen_generation >= 0 && request.seen_generation != row.generation)
      return Refusal::kAlreadyRefreshed;
    if (!request.on_demand && (!row.due_at || *row.due_at > now)) return Refusal::kNotDue;
    if (!row.parked_refresh_token.empty()) return Refusal::kParked;
    if (row.status == "needs_reauth") return Refusal::kNeedsReauth;
    if (row.refresh_token.empty()) return Refusal::kNoRefreshToken;
    if (row.unreadable) return Refusal::kUnreadable;
    return std::nullopt;
  }

  Claim MakeClaim(const ClaimRequest& request, int64_t journal_id) const {
    const Row& row = rows.at(request.schedule_id);
    Claim claim;
    claim.schedule_id = request.schedule_id;
    claim.provider_id = row.provider_id;
    claim.journal_id = journal_id;
    claim.token_table = row.token_table;
    claim.stored_refresh_token = Sealed(row.refresh_token);
    claim.refresh_token = Secret(row.refresh_token);
    claim.client_id = row.client_id;
    claim.client_secret = Secret(row.client_secret);
    if (!row.expires_at && !request.on_demand && !row.hides_access_token) claim.access_token = Secret(row.access_token);
    // What cannot be read shows only when it is opened.
    claim.only_asked = !row.expires_at && !request.on_demand && !row.access_token.empty();
    claim.generation = row.generation;
    claim.attempts = row.attempts;
    claim.lost_response = row.lost_response;
    claim.expires_at = row.expires_at;
    claim.last_refreshed_at = row.last_refreshed_at;
    claim.due_at = row.due_at;
    claim.asked_for = request.on_demand;
    return claim;
  }

  SaveVerdict SaveOne(Micros now, const Outcome& outcome) {
    const bool learned = outcome.introspected && !outcome.failure;
    EXPECT_EQ(1, outcome.tokens.has_value() + outcome.failure.has_value() + outcome.released + learned);
    EXPECT_TRUE(outcome.failure || outcome.rotated_refresh_token.empty());
    const int64_t id = outcome.claim.schedule_id;
    EXPECT_TRUE(journal.contains(id)) << "saved without a claim: " << id;
    const auto found = rows.find(id);
    if (TakeFault(fail_saves)) return SaveVerdict::kNotStored;
    if (found == rows.end()) return SaveVerdict::kGone;
    Row& row = found->second;
    if (TakeFault(row.fail_saves)) return SaveVerdict::kNotStored;
    if (outcome.released) return SaveVerdict::kSaved;
    const bool same_token = Sealed(row.refresh_token) == outcome.claim.stored_refresh_token;
    if (!same_token || row.generation != outcome.claim.generation) return SaveVerdict::kSuperseded;
    if (learned) return WriteLearned(outcome, row);
    return outcome.tokens ? WriteTokens(now, outcome, row) : WriteFailure(now, outcome, row);
  }

  static SaveVerdict WriteLearned(const Outcome& outcome, Row& row) {
    row.expires_at = outcome.expires_at;
    row.due_at = outcome.due_at;
    row.attempts = outcome.attempts;
    row.failure.reset();
    row.message = outcome.remark;
    row.introspections++;
    return SaveVerdict::kSaved;
  }

  SaveVerdict WriteTokens(Micros now, const Outcome& outcome, Row& row) {
    row.generation++;
    row.attempts = 0;
    row.lost_response = false;
    row.last_refreshed_at = outcome.answered_at;
    const std::string_view refresh_token = outcome.tokens->refresh_token.view();
    const std::string replacement = refresh_token.empty() ? row.refresh_token : std::string(refresh_token);
    row.access_token = outcome.tokens->access_token.view();
    row.expires_at = outcome.expires_at;
    if (row.rejects_writes) {
      row.parked_refresh_token = replacement;
      row.parked_due_at = outcome.due_at;
      row.due_at = now + 2 * kSecond;
      return SaveVerdict::kParked;
    }
    row.refresh_token = replacement;
    row.due_at = outcome.ScheduledDueAt();
    row.expires_at = outcome.ScheduledExpiry();
    row.status = "connected";
    row.failure.reset();
    row.message.clear();
    row.writes++;
    return SaveVerdict::kSaved;
  }

  static SaveVerdict WriteFailure(Micros now, const Outcome& outcome, Row& row) {
    const FailureClass failure = outcome.failure->failure;
    row.failure = failure;
    row.message = outcome.failure->message;
    row.due_at = outcome.due_at;
    row.attempts = outcome.attempts;
    row.lost_response = outcome.lost_response;
    if (failure == FailureClass::kReauth || failure == FailureClass::kLostResponse) row.status = "needs_reauth";
    if (failure == FailureClass::kClientConfig) row.status = "error";
    if (outcome.rotated_refresh_token.empty()) return SaveVerdict::kSaved;
    if (row.rejects_writes) {
      row.parked_refresh_token = outcome.rotated_refresh_token.view();
      row.parked_due_at = outcome.due_at;
      row.due_at = now + 2 * kSecond;
      return SaveVerdict::kParked;
    }
    row.refresh_token = outcome.rotated_refresh_token.view();
    return SaveVerdict::kSaved;
  }

  static void RetryParked(Micros now, Row& row) {
    row.due_at = now + 2 * kSecond;
    if (row.rejects_writes) return;
    row.refresh_token = std::exchange(row.parked_refresh_token, "");
    row.due_at = row.parked_due_at;
    row.writes++;
  }

  uint64_t loaded_version_ = 0;
  int64_t next_journal_id_ = 1;
};

}  // namespace token_refresh
