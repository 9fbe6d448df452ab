// When access tokens expire, written where the provider was asked for nothing else: onto rows that still hold the
// tokens that were asked about.
#include "pg/save_arrays.h"
#include "pg/table_sql.h"

namespace token_refresh {

namespace {

// The tokens are the same as before, and so is the generation. What has kept them from being read is over.
Statement schedule_learned = {
    "UPDATE token_refresh.schedule s SET due_at = k.due_at, expires_at = k.expires_at, attempts = 0, failure = NULL,"
    " message = NULL, status = CASE WHEN s.status = 'error' THEN 'connected' ELSE s.status END"
    " FROM unnest($1, $2, $3, $4, $5, $6) AS k(n, id, generation, planned_at, due_at, expires_at)"
    " WHERE s.id = k.id AND s.row_key IS NOT NULL AND s.status <> 'disconnected' AND s.generation = k.generation"
    " AND s.due_at IS NOT DISTINCT FROM k.planned_at RETURNING k.n",
    6,
    {INT4ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID},
    nullptr};

Picked WriteRows(const SaveWork& work, const Picked& learned) {
  TokenTableStatements* statements = StatementsFor(work.token_table);
  const TokenTable& table = *statements->table;
  Datum values[] = {
      Numbers(learned), RowKeys(work, learned),
      BytesOrNull(learned, [&](int i) { return std::string_view(work.targets[i].refresh_token); },
                  ElementOf(StoredArrayType(table))),
      Times(learned, [&](int i) { return work.outcomes[i].expires_at; })};
  MarkWritten(work, ExecuteOnTable(table, &statements->learn, values));
  Picked written = {static_cast<int*>(palloc(sizeof(int) * learned.count)), 0};
  for (int i = 0; i < learned.count; i++)
    if (work.written[learned.index[i]]) written.index[written.count++] = learned.index[i];
  return written;
}

}  // namespace

void WriteLearned(const SaveWork& work) {
  Picked learned = Pick(work, [](const Outcome& o) { return o.introspected && !o.failure; });
  // A table that does not take it must not be asked about for ever.
  if (learned.count > 0 && !work.schedule_only) learned = WriteRows(work, learned);
  if (learned.count == 0) return;
  auto at = [&](int i) -> const Outcome& { return work.outcomes[i]; };
  Datum values[] = {Numbers(learned),
                    ScheduleIds(work, learned),
                    Generations(work, learned),
                    Times(learned, [&](int i) { return at(i).claim.due_at; }),
                    Times(learned, [&](int i) { return at(i).due_at; }),
                    Times(learned, [&](int i) { return at(i).expires_at; })};
  const uint64 scheduled = Execute(&schedule_learned, values, false);
  for (int i = 0; i < learned.count; i++) work.written[learned.index[i]] = 0;
  MarkWritten(work, scheduled);
  if (!work.schedule_only) RefuseOutdated(work, learned, [&](int i) { return !work.written[i]; });
}

}  // namespace token_refresh
