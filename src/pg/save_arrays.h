// Array parameters from the outcomes of a save. For save_statements.cpp and park_statements.cpp; called
// inside RunPostgres, results are palloc'd, may raise.
#pragma once

#include <string_view>

#include "pg/save_statements.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"

namespace token_refresh {

// Indices into outcomes, picked and in plain memory.
struct Picked {
  int* index;
  int count;
};

template <class Wanted>
Picked Pick(const SaveWork& work, Wanted wanted) {
  Picked picked = {static_cast<int*>(palloc(sizeof(int) * (work.which.size() + 1))), 0};
  for (size_t i : work.which)
    if (wanted(work.outcomes[i])) picked.index[picked.count++] = static_cast<int>(i);
  return picked;
}

template <class Get>
Datum Texts(const Picked& picked, Get get) {
  return MakeArray(picked.count, TEXTOID, [&](int i, bool*) { return TextDatum(get(picked.index[i])); });
}

template <class Get>
Datum TextsOrNull(const Picked& picked, Get get) {
  return MakeArray(picked.count, TEXTOID,
                   [&](int i, bool* is_null) { return TextOrNullDatum(get(picked.index[i]), is_null); });
}

// element: bytea or text, which have the same representation.
template <class Get>
Datum BytesOrNull(const Picked& picked, Get get, Oid element = BYTEAOID) {
  return MakeArray(picked.count, element,
                   [&](int i, bool* is_null) { return TextOrNullDatum(get(picked.index[i]), is_null); });
}

template <class Get>
Datum Times(const Picked& picked, Get get) {
  return MakeArray(picked.count, TIMESTAMPTZOID,
                   [&](int i, bool* is_null) { return TimeOrNullDatum(get(picked.index[i]), is_null); });
}

template <class Get>
Datum Ints(const Picked& picked, Get get) {
  return MakeArray(picked.count, INT4OID, [&](int i, bool*) { return Int32GetDatum(get(picked.index[i])); });
}

template <class Get>
Datum Bigints(const Picked& picked, Get get) {
  return MakeArray(picked.count, INT8OID, [&](int i, bool*) { return Int64GetDatum(get(picked.index[i])); });
}

template <class Get>
Datum Booleans(const Picked& picked, Get get) {
  return MakeArray(picked.count, BOOLOID, [&](int i, bool*) { return BoolGetDatum(get(picked.index[i])); });
}

inline Datum Numbers(const Picked& picked) {
  return Ints(picked, [](int i) { return i; });
}

inline Datum RowKeys(const SaveWork& work, const Picked& picked) {
  return Texts(picked, [&](int i) { return std::string_view(work.targets[i].row_key); });
}

inline Datum ScheduleIds(const SaveWork& work, const Picked& picked) {
  return Bigints(picked, [&](int i) { return work.outcomes[i].claim.schedule_id; });
}

inline Datum TokenTables(const SaveWork& work, const Picked& picked) {
  return Ints(picked, [&](int i) { return work.outcomes[i].claim.token_table; });
}

inline Datum Generations(const SaveWork& work, const Picked& picked) {
  return Bigints(picked, [&](int i) { return work.outcomes[i].claim.generation; });
}

inline std::optional<Micros> AnsweredAt(const Outcome& outcome) { return outcome.answered_at; }

inline Picked PickAll(const SaveWork& work) {
  return Pick(work, [](const Outcome&) { return true; });
}

// Steps that the files share.

// What has been written into rows for which outdated(i) holds must not stay there.
template <class Outdated>
void RefuseOutdated(const SaveWork& work, const Picked& rows, Outdated outdated) {
  bool any = false;
  for (int i = 0; i < rows.count; i++) {
    work.outdated[rows.index[i]] = outdated(rows.index[i]);
    any = any || work.outdated[rows.index[i]];
  }
  if (any)
    ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
                    errmsg("tokens were stored while their refresh was in flight")));
}

// A rotated token that the caller has seen must survive a crash, whatever the server's default for
// commits is. A stronger setting stays.
void CommitToDisk();
// What it writes on the table is no news to the schedule; in the name of the table's owner. Returns the rows.
uint64 ExecuteOnTable(const TokenTable& table, Statement* statement, Datum* values);
// Sets written of each number that the last statement has returned.
void MarkWritten(const SaveWork& work, uint64 rows);
// When access tokens expire, as far as that was all that was asked.
void WriteLearned(const SaveWork& work);
// Returns how many rows the schedule has taken; their numbers are in SPI_tuptable.
uint64 ScheduleFailed(const SaveWork& work, const Picked& failed, bool rows_written);
void DeleteParkedRows(const SaveWork& work, const Picked& rows, bool unrotated);

}  // namespace token_refresh
