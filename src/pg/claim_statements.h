// The transaction that claims rows, in terms of the store's SQL. Called inside RunPostgres by
// store_claim.cpp; may raise. Results are plain data, palloc'd in the given context.
#pragma once

#include <optional>
#include <span>

#include "core/store.h"
#include "pg/postgres_api.h"
#include "pg/token_rows.h"

namespace token_refresh {

// One requested row, in plain memory.
struct PlainClaim {
  bool found, locked, parked, claimed;
  int32_t provider, token_table, attempts;
  char *row_key, *status;
  bool due, expires, lost_response, refreshed_before;
  TimestampTz due_at, expires_at, last_refreshed_at;
  int64_t generation;
  TokenRow token;
  Micros refresh_margin;  // of its token table; 0: none
};

// Why the row is not to be refreshed now; nothing: it is.
std::optional<Refusal> JudgeClaim(Micros now, const ClaimRequest& request, const PlainClaim& row);

// What a claim goes by besides the rows themselves.
struct ClaimRules {
  std::span<const int32_t> full;          // token tables of which nothing is claimed
  std::span<const int32_t> introspected;  // providers that are asked when a token expires, if it is not known
  uint64_t providers_version;             // of the providers that will serve the claims (provider_cache.h)
};

// Fills rows, which are zeroed, as long as requests and live in context; notes those that are claimed as in
// flight, and puts out of the way what never can be refreshed, or not as it is. Returns the id of the note;
// 0: nothing was claimed. Nothing: the providers have changed, and nothing was done.
std::optional<int64_t> ReadAndNoteClaims(Micros now, std::span<const ClaimRequest> requests, const ClaimRules& rules,
                                         MemoryContext context, PlainClaim* rows);

// Whether a row that was claimed has an access token that its provider is asked about, instead of for a new one.
bool IsOnlyAsked(const PlainClaim& row);

// Notes that these are about to be asked for, and which of them are only asked about.
int64_t InsertNote(const int64_t* schedule_ids, int count, const int64_t* only_asked, int only_asked_count);
// This one is not, after all.
void NoteRefreshOf(int64_t note, int64_t schedule_id);
// Only these are, after all. None: the note is deleted.
void NarrowNote(int64_t note, const int64_t* schedule_ids, int count);

// Says in the status of these rows why they cannot be refreshed, and has them tried again in a while.
void NoteUnreadable(const int64_t* schedule_ids, const int64_t* generations, const char* const* messages,
                    const Micros* until, int count);

}  // namespace token_refresh
