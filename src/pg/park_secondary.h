// Parks tokens that came beside those that were asked for: for their row, where that can be compared later on, else
// under the name of their credential. For secondary_tokens.cpp, connected to SPI.
#pragma once

#include "pg/given_secondary.h"

namespace token_refresh {

// What is known of its row; usable: tokens can be parked for it. unreadable: nothing is.
struct SecondaryRow {
  bool unreadable, found, usable, newer_parked;
  int64_t schedule_id, generation;
  char* row_key;
  bytea* refresh_token;
};

// Whether a refresh token that came earlier is yet to be stored: these would replace what comes with it, and it would be
// lost.
bool MustWait(const GivenSecondary& given);

// What is known of the row they are for. May raise, as the table may be locked.
void FindSecondaryRow(const GivenSecondary& given, SecondaryRow* row);

// False: the row is not usable, or its refresh token does not open.
bool ParkBesideRow(const GivenSecondary& given, const SecondaryRow& row, const char* reason);
// Of an answer. Where there is a row they are for that one: they do not bring it back when it is deleted. Raises if
// there is no key to seal with.
void ParkByName(const GivenSecondary& given, const SecondaryRow& row, const char* reason);

// What is parked under its name and due to be tried again, palloc'd; returns how many. What has waited longest comes
// first.
int ReadParkedByName(TimestampTz now, TimestampTz started_at, GivenSecondary** parked);
void DeleteParkedByName(int64_t id);

}  // namespace token_refresh
