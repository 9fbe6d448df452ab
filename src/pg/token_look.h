// The first half of reading a token: what is stored of a credential, in its row, beside it and in the schedule,
// as of which moment, and opening it. For read_token, which judges it. May raise; results are palloc'd.
#pragma once

#include "pg/catalog.h"
#include "pg/read_token.h"

namespace token_refresh {

// The status of a credential that is over, or not there at all.
constexpr const char* kGone = "disconnected";

// One look at the credential and what belongs to it.
struct Look {
  CredentialRow row;
  int32_t token_table;
  const char* row_key;
  char id_text[24];
  const char* provider;  // may be null in an attached table
  const char* subject;   // of an attached row
  bool issued;           // row.issued_at is known
  // What the envelope of row.access_token is bound to; null: the token is as the attached table stores it.
  const char* sealed_for;
  const char* sealed_for_row;
};

// The row as the caller may read it. fresh: as of now; else as the statement sees it.
bool LookUp(const TokenRequestArgs& args, bool fresh, Look* look);

// What is committed now, in the row or beside it.
bool LookAgain(const TokenRequestArgs& args, Look* look);

bool LookUpSchedule(const Look& look, ScheduleRow* schedule);

// Null when there is no access token.
text* OpenToken(const TokenRequestArgs& args, const Look& look);

bool Alive(bool expires, TimestampTz expires_at);

}  // namespace token_refresh
