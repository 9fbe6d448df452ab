#include "pg/table_time.h"

#include <cmath>
#include <cstdlib>

namespace token_refresh {

namespace {

// What has no place in the calendar must not make the application's own statement fail: it is infinity.
TimestampTz InTimeZone(const char* time_zone, Timestamp time) {
  if (time >= END_TIMESTAMP - USECS_PER_DAY) return DT_NOEND;
  if (time < MIN_TIMESTAMP + USECS_PER_DAY) return DT_NOBEGIN;
  return DatumGetTimestampTz(
      DirectFunctionCall2(timestamp_zone, CStringGetTextDatum(time_zone), TimestampGetDatum(time)));
}

// False: it is no number.
bool FromSeconds(double seconds, TimestampTz* time) {
  constexpr double kFirst = (MIN_TIMESTAMP + kPostgresEpoch) / 1e6 + SECS_PER_DAY;
  constexpr double kLast = END_TIMESTAMP / 1e6 - SECS_PER_DAY;
  if (std::isnan(seconds)) return false;
  if (seconds < kFirst || seconds > kLast)
    *time = seconds < 0 ? DT_NOBEGIN : DT_NOEND;
  else
    *time = DatumGetTimestampTz(DirectFunctionCall1(float8_timestamptz, Float8GetDatum(seconds)));
  return true;
}

}  // namespace

const char* TimeFrom(const TokenTable& table, TokenColumn column) {
  if (!Has(table, column)) return "NULL::timestamptz";
  const char* column_value = table.columns[column].reference;
  switch (table.columns[column].kind) {
    case ColumnKind::kTimestamp:
      return psprintf("(%s AT TIME ZONE %s)", column_value, quote_literal_cstr(table.time_zone));
    case ColumnKind::kEpoch:
      return psprintf("pg_catalog.to_timestamp(%s::double precision)", column_value);
    default:
      return psprintf("%s::timestamptz", column_value);
  }
}

const char* TimeTo(const TokenTable& table, TokenColumn column, const char* expression) {
  const char* type = table.columns[column].type;
  switch (table.columns[column].kind) {
    case ColumnKind::kTimestamp:
      return psprintf("(%s AT TIME ZONE %s)::%s", expression, quote_literal_cstr(table.time_zone), type);
    case ColumnKind::kEpoch:
      return psprintf("pg_catalog.floor(EXTRACT(EPOCH FROM %s))::%s", expression, type);
    default:
      return psprintf("%s::%s", expression, type);
  }
}

bool ReadTime(const TokenTable& table, TokenColumn column, Datum value, bool is_null, TimestampTz* time) {
  *time = 0;
  if (is_null) return false;
  switch (table.columns[column].kind) {
    case ColumnKind::kTimestamp:
      *time = InTimeZone(table.time_zone, DatumGetTimestamp(value));
      return true;
    case ColumnKind::kEpoch: {
      Oid output;
      bool is_varlena;
      getTypeOutputInfo(table.columns[column].type_oid, &output, &is_varlena);
      return FromSeconds(strtod(OidOutputFunctionCall(output, value), nullptr), time);
    }
    default:
      *time = DatumGetTimestampTz(value);
      return true;
  }
}

}  // namespace token_refresh
