// Rows that get another key. What is in flight or parked for a row belongs to its schedule id, so the row has to keep
// that: when an UPDATE changes its key; when it is deleted and inserted anew in one transaction, as an UPDATE that
// moves it to another partition does it; and when no trigger tells, and a sweep finds it elsewhere. A row that is gone
// leaves its id behind, with a digest of its tokens as they were stored; the row that appears with the same refresh
// token takes it over, if it may: a token that is sealed for its row must not be of use in another one, so a copy of it
// gains nothing. For the triggers (feed.cpp) and the sweep. May raise. Caller has the extension owner's rights and is
// connected to SPI.
#pragma once

#include "pg/postgres_api.h"
#include "pg/schedule_plan.h"

namespace token_refresh {

// SHA-256 of the tokens of a row as it stores them, palloc'd. Null: there is none.
struct TokenDigests {
  bytea* refresh_token;
  bytea* access_token;
};

// stored: of a text or bytea column.
bytea* DigestOf(Datum stored, bool is_null);

// The row has another key now, and so no other has it any more.
void MoveKey(int32_t token_table, const char* old_key, const char* new_key);

// The row is being deleted. If its transaction does not insert it anew it is gone, and what is parked for it.
void LeaveBehind(int32_t token_table, const char* row_key, const TokenDigests& tokens);

// Whose schedule id a row that appears takes over.
struct Heritage {
  int64_t schedule_id;  // 0: nobody's
  bool scheduled;       // else it is known from a parked result alone, which comes out of a dump
  KnownSchedule known;  // if it is scheduled
  bool same_access_token;
  bool elsewhere;       // for the sweep: the token is parked for a row that is not known to be gone. Nothing is taken over
};

// Finds it, and gives it the key of row. Any row may inherit from one that this very transaction has deleted. Else,
// with the cipher native, it must have the same key, and with functions, which may bind a token to it, the same subject.
Heritage TakeOver(const PlannedRow& row, const TokenDigests& tokens);

// How a row is planned that has taken over what is in the schedule.
Unchanged UnchangedAfter(const Heritage& heritage, const TokenTable& table);

}  // namespace token_refresh
