// The refresher's Store on PostgreSQL: every call is one or a few short transactions.
// Secrets are opened when rows are claimed and sealed when outcomes are saved; the engine
// sees neither ciphers nor SQL. Owned by the refresher worker; nothing else may make one.
//
// Statements are set-based: one UPDATE ... FROM unnest(...) for a batch, with the compare-and-set
// in its WHERE. A batch that fails is retried row by row; a row that its table rejects is
// parked.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/key_ring.h"
#include "core/store.h"
#include "pg/boundary.h"
#include "pg/postgres_api.h"
#include "pg/save_statements.h"
#include "pg/token_rows.h"

namespace token_refresh {

class PgStore final : public Store {
 public:
  PgStore();

  // Store, for the engine.
  uint64_t ProvidersVersion() override;
  Result<std::vector<std::shared_ptr<const Provider>>> LoadProviders() override;
  Result<DueList> ListDue(Micros now, std::span<const DueQuota> quotas) override;
  Result<ClaimBatch> ClaimRows(Micros now, std::span<const ClaimRequest> requests) override;
  Status NoteRefresh(const Claim& claim) override;
  std::vector<SaveVerdict> Save(Micros now, std::span<const Outcome> outcomes) override;

  // For the worker.
  // Null: there is none, or it cannot be used.
  std::shared_ptr<const Provider> FindProviderByName(const std::string& name);
  // Those among the providers loaded last that cannot be used: their ids, in order.
  const std::vector<int32_t>& unusable_providers() const { return unusable_providers_; }
  // Whether the database (still) has the extension that the worker started with. Being a transaction,
  // this is also how an idle process hears what other sessions have changed.
  bool ExtensionPresent();
  // What the last refresher left in flight may have lost its answer: notes that, once, at start.
  Status Recover();
  // One step, of a few milliseconds, of the sweep that brings the schedule in step with the token tables and
  // trims the audit. False when nothing is left to be swept now.
  bool SweepStep(Micros now);
  // When a sweep is due by itself; 0: one is under way, or tables have come.
  Micros NextSweepAt() const;
  // Whether pause() holds; read again when settings in tables have changed. As long as that cannot be
  // read nothing changes, and in the beginning it holds.
  bool Paused();
  // Whether tokens may have been queued to be revoked since the revocations were last looked at.
  bool revocations_queued() const { return revocations_queued_; }
  void LookedAtRevocations() { revocations_queued_ = false; }

 private:
  struct ClaimScratch;
  struct StoredToken {
    bool attached = true;       // its table
    bool readable = false;      // else nothing is known
    bool exists = false;
    std::string refresh_token;  // as stored; empty: none
    Secret opened;              // by the table's own function, if it has one
    int64_t generation = -1;    // of its schedule; -1: it has none
    bool moved = false;         // the schedule has the row under another key
    std::string row_key;        // that key
    bool awaited = false;       // if it does not exist, it may still turn up
  };
  static StoredToken ToStored(const TokenRow& row);
  // Outcomes on their way into the database. targets and verdicts are as long as they.
  struct Saving {
    Micros now;
    std::span<const Outcome> outcomes;
    bool from_parked;
    std::vector<SaveTarget> targets;
    std::vector<SaveVerdict> verdicts;
  };
  struct ParkedOutcomes {
    std::vector<Outcome> outcomes;
    std::vector<char> disconnected;  // as long as outcomes
  };
  // Whether a row holds the refresh token that was claimed.
  enum class Sameness { kSame, kOther, kUnclear };
  // Which parked results are of no use any more, because others have stored tokens.
  enum class Discard { kNothing, kUnrotated, kAll };

  // What goes wrong is said in the log, at most once a second, without quoting any row.
  Error Complain(const char* doing, const PostgresError& error);
  const std::string& ProviderName(int32_t id) const;
  std::vector<std::string> ProviderNames(std::span<const Outcome> outcomes) const;
  Result<Secret> OpenToken(const KeyRing& ring, int32_t token_table, const std::string& row_key, const char* column,
                           std::string_view stored, std::string_view opened) const;

  // Claiming (store_claim.cpp).
  Status ReadClaims(Micros now, std::span<const ClaimRequest> requests, ClaimScratch* scratch);
  void OpenClaims(std::span<const ClaimRequest> requests, ClaimScratch* scratch, ClaimBatch* batch);
  Status OpenClaim(const KeyRing& ring, const TokenRow& row, Claim* claim) const;
  Status OpenClient(const KeyRing& ring, const TokenRow& row, Claim* claim) const;
  std::vector<int32_t> TablesFullOfUnsaved() const;
  std::vector<int32_t> IntrospectedProviders() const;
  void NoteUnopened(int64_t journal_id, const std::vector<Claim>& opened, const std::vector<Claim>& unopened,
                    bool blame_rows);
  Result<int64_t> NoteInFlight(const std::vector<int64_t>& schedule_ids);

  // Parked results (store_parked.cpp).
  Result<ParkedOutcomes> LoadParked(const std::vector<int64_t>& schedule_ids);
  void Postpone(const std::vector<int64_t>& schedule_ids, const char* reason, int least_seconds);
  void RetryParked(Micros now, std::span<const ClaimRequest> requests, ClaimBatch* batch);
  void ClaimParked(std::vector<Claim> claims, ClaimBatch* batch);
  void ClaimHealed(Micros now, const std::vector<ClaimRequest>& requests, ClaimBatch* batch);
  void Park(Saving* saving, const std::vector<size_t>& which, const std::string& reason);

  // Saving (store_save.cpp). which are indices into outcomes.
  std::vector<SaveVerdict> SaveAll(Micros now, std::span<const Outcome> outcomes, bool from_parked);
  void CountUnsaved(const Saving& saving);
  void SaveOrPark(Saving* saving, const std::vector<size_t>& which);
  bool SaveOnce(Saving* saving, const std::vector<size_t>& which, PostgresError* error, bool schedule_only = false);
  void SaveOneByOne(Saving* saving, const std::vector<size_t>& which);
  void GiveUpOnRow(Saving* saving, size_t i, const PostgresError& error);
  std::string DescribeRejection(const Outcome& outcome, const PostgresError& error) const;
  // The journal: what a transaction has to know of it, and what comes after one that has succeeded.
  std::vector<OpenNote> NotesOf(std::span<const Outcome> outcomes, const std::vector<size_t>& which) const;
  void SettleNotes(std::span<const Outcome> outcomes, const std::vector<size_t>& settled);

  // What a save did not match (store_resolve.cpp).
  std::vector<size_t> ResolveMissed(Saving* saving, const std::vector<size_t>& which);
  void HandleIgnored(Saving* saving, size_t i);
  void KeepUnclear(Saving* saving, const std::vector<size_t>& unclear, const char* reason);
  void AuditSuperseded(Saving* saving, const std::vector<size_t>& superseded, Discard discard);
  Result<std::vector<SealedTokens>> SealForRevocation(const Saving& saving,
                                                      const std::vector<size_t>& superseded) const;
  Sameness Compare(const Result<const KeyRing*>& ring, const Claim& claim, const std::string& row_key,
                   const StoredToken& current) const;
  Result<std::vector<StoredToken>> LoadStored(const Saving& saving, const std::vector<size_t>& which);

  // Sweeps (store_sweep.cpp).
  enum class SweepStage { kIdle, kFindMissing, kReconcile, kCleanUp };
  struct SweepState {
    SweepStage stage = SweepStage::kIdle;
    int32_t table = 0;
    std::optional<std::string> cursor;  // last key or id looked at, as text; nothing: at the beginning
    bool one_by_one = false;  // the batch has failed as a whole
    bool locked = false;      // rows were left out because somebody held them
    bool empty = false;       // the table has no row
    bool detached = false;    // or it is about to be
    Micros began_at = 0;
    Micros turn_began_at = 0;
  };
  struct SweptTable {
    int32_t id = 0;
    bool polled = false;       // no trigger tells everything about it
    Micros poll_interval = 0;  // 0: the setting
    Micros swept_at = 0;       // 0: never
    bool locked = false;       // rows were left out then
    int failures = 0;          // sweeps that have failed in a row
    std::optional<SweepState> paused;  // in the middle of a sweep the table was suspended, or its turn was over
    Micros turn_ended_at = 0;
  };
  static Micros SweepDueAt(const SweptTable& table);
  std::optional<PostgresError> SweepBatch(bool* ended);
  void ListTables();
  void ReleaseDetached(const std::vector<SweptTable>& before);
  bool StartSweep(Micros now);
  void NextSweepStage(Micros now, bool failed);
  bool PauseSweep(Micros now);

  // Upkeep (store_upkeep.cpp).
  void Trim();
  void TidySessions();

  MemoryContext scratch_context_;
  Oid extension_ = InvalidOid;
  SweepState sweep_;
  std::vector<SweptTable> swept_tables_;
  uint64_t listed_at_version_ = UINT64_MAX;
  bool revocations_queued_ = false;
  bool paused_ = true;
  uint64_t paused_at_version_ = 0;
  Micros last_complaint_at_ = 0;
  std::vector<std::shared_ptr<const Provider>> providers_;  // that can be used
  std::vector<int32_t> unusable_providers_;                  // ids of the others
  uint64_t providers_at_version_ = 0;
  std::unordered_map<int32_t, std::string> provider_names_;  // of all
  std::unordered_map<int64_t, int32_t> unsaved_;  // schedule id and table of the tokens that could not even be parked
  std::unordered_map<int64_t, int> journal_left_;          // claims not saved yet, per journal note
  // Per schedule id, the digest of the refresh token in the row: by it a sweep knows a row whose key has changed.
  std::unordered_map<int64_t, std::string> in_flight_;
};

// Shared by the files of the store ---------------------------------------------

constexpr const char* kActivityClaim = "token_refresh: claiming due credentials";
constexpr const char* kActivitySave = "token_refresh: storing answers";
constexpr const char* kActivityUpkeep = "token_refresh: reconciling the schedule";

}  // namespace token_refresh
