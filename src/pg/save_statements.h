// The transactions that write outcomes, in terms of the store's SQL. Called inside
// RunPostgres by store_save.cpp and store_parked.cpp; may raise. Arguments are read only and
// owned by the caller.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/store.h"
#include "pg/postgres_api.h"

namespace token_refresh {

// New tokens, as they are going to be stored.
struct SealedTokens {
  std::string access_token;   // empty: none was given, the stored one stays
  std::string refresh_token;  // empty: the stored one stays
  std::string replaced;       // for parking: the refresh token that stands in the row
  std::string replaced_digest;  // SHA-256 of that as it is stored; empty: unknown
  bool rotated = false;       // refresh_token is another one than was sent, which is of no use any more
};

// Where an outcome belongs: the row as it was last seen.
struct SaveTarget {
  std::string row_key;
  std::string refresh_token;  // that must still be stored, as stored
};

// A note in the journal, and how many of its claims are not settled yet.
struct OpenNote {
  int64_t id = 0;
  int left = 0;
};

// Everything that one transaction needs. which[i] is an index into outcomes and sealed.
// written and outdated are as long as outcomes. written is set to 1 for rows whose compare-and-set matched.
// outdated is set to 1, and the transaction fails, for rows in which others have stored tokens since the claim
// beside the refresh token that was sent, or which they have planned anew.
struct SaveWork {
  Micros now = 0;
  int32_t token_table = 0;  // of all outcomes of which
  std::span<const Outcome> outcomes;
  std::span<const SealedTokens> sealed;
  std::span<const SaveTarget> targets;  // as long as outcomes
  std::span<const size_t> which;
  std::span<const std::string> provider_names;  // as long as outcomes
  std::span<const std::string> messages;        // as long as outcomes; for audit and schedule
  std::span<const OpenNote> notes;  // of which, and those of which nothing is left
  bool from_parked = false;
  std::span<char> written;
  bool schedule_only = false;  // failures: their rows reject the new status, the schedule must do
  std::span<char> outdated = {};
};

// Tokens into their tables, failures onto their rows, the schedule, the audit, the journal.
void WriteOutcomes(const SaveWork& work);

// One audit event per outcome of which.
void WriteAudit(const SaveWork& work, const char* event);
// The notes of which nothing is left when those of which that are written (all, if written is empty) are settled.
void DeleteFinishedNotes(const SaveWork& work);
// unrotated: only those whose refresh token is that of the row as well.
void DeleteParkedResults(const SaveWork& work, bool unrotated);

// Fresh tokens that their table rejects, or of which nobody can tell whether they belong there; sealed is for the
// place of parked results. Whether others have stored tokens meanwhile is looked at when they are tried again.
// This takes no lock that the application may hold: it must work when saving did not.
void WriteParked(const SaveWork& work, const std::string& reason);
// When they are tried again; a transaction of its own, which may fail.
void ScheduleParked(const SaveWork& work);

// Has fresh tokens revoked whose credential was disconnected meanwhile, if it was to be revoked; of all others,
// nothing. sealed: for the place of parked results, as long as outcomes; or empty.
void RevokeGiven(const SaveWork& work, std::span<const SealedTokens> sealed);

// Parked results with which nothing could be done: tried again as after a rejection, and at least that much later.
// With such a pause the schedule waits as well. What is not parked any more stays so.
void PostponeParked(std::span<const int64_t> schedule_ids, const char* reason, int least_seconds);
// What does not open is for a person to mend.
constexpr const char* kParkedUnopened = "what is parked does not open with the keys at hand";
constexpr int kUnopenedPauseSeconds = 300;

}  // namespace token_refresh
