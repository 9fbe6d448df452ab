// The engine's view of the database. Implemented by src/pg/store (each call is
// one or more short transactions, committed when it returns) and by test fakes.
// Called by the engine only, never while it holds anything of the network open
// in a transaction: no call spans a request.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/clock.h"
#include "core/failure.h"
#include "core/provider.h"
#include "core/result.h"
#include "core/secret.h"
#include "core/token_response.h"

namespace token_refresh {

// How many due rows of a provider the engine wants to hear of.
struct DueQuota {
  int32_t provider_id = 0;
  int32_t limit = 0;
};

struct DueRow {
  int64_t schedule_id = 0;
  int32_t provider_id = 0;
};

struct DueList {
  std::vector<DueRow> rows;          // due now, earliest first within a provider
  std::optional<Micros> next_due_at; // the earliest due time after now among the providers asked for
};

struct ClaimRequest {
  int64_t schedule_id = 0;
  bool on_demand = false;        // somebody waits: claim it whether due or not
  int64_t seen_generation = -1;  // on demand: what the caller saw; if it has moved on, nothing is to be done
};

// A row that now belongs to the engine until its Outcome is saved.
struct Claim {
  int64_t schedule_id = 0;
  int32_t provider_id = 0;
  int64_t journal_id = 0;     // the store's note that this claim is in flight
  bool only_asked = false;    // as the note has it, its refresh token does not go out: see Store::NoteRefresh
  int32_t token_table = 0;
  std::string row_key;
  std::string subject, label;
  std::string stored_refresh_token;  // as it stands in the row (ciphertext): the compare-and-set value
  // The client that the grant was given to (RFC 7591), if that is not the provider's: see credential_client.h.
  std::string client_id;
  Secret client_secret;
  Secret refresh_token;              // to be sent; or what stands in its place (renewal_token.h)
  // When the provider is to be asked when it expires, which nobody has said yet; empty otherwise.
  Secret access_token;
  std::string captured;              // what earlier answers gave (captured_fields): a JSON object of texts, or empty
  Secret replaced_refresh_token;     // the one that stands in the row, opened; empty: that is refresh_token
  int64_t generation = 0;
  int32_t attempts = 0;
  bool lost_response = false;        // an earlier answer may have been lost on the way
  std::optional<Micros> expires_at;  // of the access token
  std::optional<Micros> refresh_expires_at;  // the deadline of its refresh token
  std::optional<Micros> last_refreshed_at;
  std::optional<Micros> refresh_margin;  // of its token table; nothing: the provider's, or the default
  std::optional<Micros> due_at;      // of the row, when it was claimed
  bool asked_for = false;            // somebody waits for it

  const Secret& StoredRefreshToken() const {
    return replaced_refresh_token.empty() ? refresh_token : replaced_refresh_token;
  }
};

enum class Refusal {
  kNotDue,           // no longer due; nothing to do
  kNotFound,         // gone, or not committed yet
  kLocked,           // somebody holds the row in an open transaction
  kAlreadyRefreshed, // its generation has moved on since the caller looked
  kNeedsReauth,      // the grant is known to be dead; it is not presented again
  kNoRefreshToken,
  kUnreadable,       // the stored ciphertext does not open, or the table cannot be read
  kLeftAlone,        // the table's owner does not want it refreshed now
  kParked,           // a result waits to be written; the store is at it
};

struct RefusedClaim {
  int64_t schedule_id = 0;
  Refusal refusal = Refusal::kNotFound;
};

struct ClaimBatch {
  // Since they were loaded; then nothing was claimed or refused. They are to be loaded first: what was committed after
  // a change is never served by the provider as it was before.
  bool providers_changed = false;
  std::vector<Claim> claims;
  std::vector<RefusedClaim> refused;
};

// What became of a claim.
struct Outcome {
  Claim claim;
  std::optional<TokenSet> tokens;  // set: refreshed
  std::optional<Failure> failure;  // set: not refreshed
  // With a failure: the provider has replaced the refresh token all the same. It is to be stored, or parked,
  // in place of the one that was claimed; the access token and what belongs to it stay. Empty: it has not.
  Secret rotated_refresh_token;
  // Nothing was asked of the provider: the claim is given back. Only the journal note goes away; the row
  // stays as it was (the fields below repeat it), there is nothing to audit, and the verdict is kSaved.
  // Neither tokens nor failure nor introspected is set.
  bool released = false;
  // The provider was asked when the stored access token expires, and for nothing else. expires_at is then what has
  // been learned, or is assumed; with a failure, nothing has. tokens is not set.
  bool introspected = false;
  // With tokens: expires_at is assumed until the provider has been asked.
  bool expiry_assumed = false;
  std::string remark;  // something odd that belongs into the audit; no secret
  Micros answered_at = 0;
  std::optional<Micros> expires_at;          // of the access token, when tokens or introspected is set
  std::optional<Micros> refresh_expires_at;  // of the new refresh token
  std::optional<Micros> due_at;    // next; nothing: never
  int32_t attempts = 0;            // to be stored
  bool lost_response = false;      // to be stored
  Micros duration = 0;             // of the request

  // While the expiry is assumed the schedule knows none, and the row is due: then it is asked for.
  std::optional<Micros> ScheduledExpiry() const { return expiry_assumed ? std::nullopt : expires_at; }
  std::optional<Micros> ScheduledDueAt() const { return expiry_assumed ? answered_at : due_at; }
  // Whether the provider gave anything that must not be lost.
  bool HasNewTokens() const { return tokens.has_value() || !rotated_refresh_token.empty(); }
  // Empty: the stored one stays.
  const Secret& NewRefreshToken() const { return tokens ? tokens->refresh_token : rotated_refresh_token; }
};

enum class SaveVerdict {
  kSaved,
  kSuperseded,  // other tokens are stored there now; they were left alone
  kParked,      // the table rejected the write; the tokens are kept elsewhere, sealed, and retried
  kGone,        // the row no longer exists
  kNotStored,   // nothing could be written; the engine keeps the outcome and tries again
};

// So many tokens of one table may wait in the engine for the store to take them; then the store refuses to claim more
// of that table (kLocked).
constexpr size_t kUnsavedOfTable = 50;

class Store {
 public:
  virtual ~Store() = default;

  // Changes whenever a provider may have changed.
  virtual uint64_t ProvidersVersion() = 0;
  virtual Result<std::vector<std::shared_ptr<const Provider>>> LoadProviders() = 0;

  virtual Result<DueList> ListDue(Micros now, std::span<const DueQuota> quotas) = 0;
  virtual Result<ClaimBatch> ClaimRows(Micros now, std::span<const ClaimRequest> requests) = 0;
  // A claim with an access token is noted as one that is asked about only, so that nobody takes its answer for lost. If
  // it is to be refreshed after all, this comes first; without success, it is not.
  virtual Status NoteRefresh(const Claim& claim) = 0;
  // One verdict per outcome, in order. Does not fail as a whole: what could not be written is kNotStored.
  virtual std::vector<SaveVerdict> Save(Micros now, std::span<const Outcome> outcomes) = 0;
};

}  // namespace token_refresh
