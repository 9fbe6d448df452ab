// Building array parameters for set-based statements from C++ data that the caller owns.
// Called inside RunPostgres; the arrays are palloc'd. May raise.
#pragma once

#include <string_view>

#include "pg/postgres_api.h"

extern "C" {
#include "mb/pg_wchar.h"
}

namespace token_refresh {

// value(i, &is_null) gives element i.
template <class Value>
Datum MakeArray(int count, Oid element, Value value) {
  int16 length;
  bool by_value;
  char alignment;
  get_typlenbyvalalign(element, &length, &by_value, &alignment);
  Datum* values = static_cast<Datum*>(palloc(sizeof(Datum) * Max(count, 1)));
  bool* nulls = static_cast<bool*>(palloc(sizeof(bool) * Max(count, 1)));
  for (int i = 0; i < count; i++) {
    nulls[i] = false;
    values[i] = value(i, &nulls[i]);
  }
  int dimensions[1] = {count};
  int lower_bounds[1] = {1};
  return PointerGetDatum(construct_md_array(values, nulls, count == 0 ? 0 : 1, dimensions, lower_bounds, element,
                                            length, by_value, alignment));
}

inline Datum TextDatum(std::string_view value) {
  return PointerGetDatum(cstring_to_text_with_len(value.data(), static_cast<int>(value.size())));
}

// bytea and text have the same representation.
inline Datum BytesDatum(std::string_view value) { return TextDatum(value); }

// For people: UTF-8, of which a database in another encoding gets what is ASCII.
inline Datum MessageDatum(std::string_view message) {
  text* copy = cstring_to_text_with_len(message.data(), static_cast<int>(message.size()));
  if (GetDatabaseEncoding() == PG_UTF8) return PointerGetDatum(copy);
  char* bytes = VARDATA(copy);
  for (size_t i = 0; i < message.size(); i++)
    if (IS_HIGHBIT_SET(bytes[i])) bytes[i] = '?';
  return PointerGetDatum(copy);
}

inline Datum TextOrNullDatum(std::string_view value, bool* is_null) {
  *is_null = value.empty();
  return *is_null ? 0 : TextDatum(value);
}

template <class OptionalMicros>
Datum TimeOrNullDatum(const OptionalMicros& time, bool* is_null) {
  *is_null = !time.has_value();
  return *is_null ? 0 : TimestampTzGetDatum(*time - kPostgresEpoch);
}

}  // namespace token_refresh
