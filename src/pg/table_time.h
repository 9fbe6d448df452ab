// The times of a token table, whose columns may be timestamps of a time zone or numbers of seconds since 1970.
// Results are palloc'd.
#pragma once

#include "pg/token_tables.h"

namespace token_refresh {

// The column as timestamptz; null if there is none. Raises, when executed, for what is no time.
const char* TimeFrom(const TokenTable& table, TokenColumn column);

// expression, a timestamptz, as the column holds it.
const char* TimeTo(const TokenTable& table, TokenColumn column, const char* expression);

// The value of the column for C++ that has the row at hand. False: there is none. What is beyond the calendar is
// infinity.
bool ReadTime(const TokenTable& table, TokenColumn column, Datum value, bool is_null, TimestampTz* time);

}  // namespace token_refresh
