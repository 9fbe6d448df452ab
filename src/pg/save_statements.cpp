#include "pg/save_statements.h"

#include "pg/catalog.h"
#include "pg/feed.h"
#include "pg/save_arrays.h"
#include "pg/secondary_tokens.h"
#include "pg/statements.h"
#include "pg/table_scope.h"
#include "pg/table_sql.h"

namespace token_refresh {

namespace {

// The rows themselves are locked by now, and generation tells whether others have stored tokens there since the
// claim. They are overwritten only if the provider has replaced the refresh token that they were stored beside.
// A parked result has been counted when it was parked, if its schedule row was free then.
Statement schedule_refreshed = {
    "UPDATE token_refresh.schedule s SET"
    " status = CASE WHEN s.status = 'disconnected' THEN s.status ELSE 'connected' END,"
    " due_at = CASE WHEN s.status <> 'disconnected' THEN k.due_at END, expires_at = k.expires_at,"
    " attempts = 0, lost_response = false, failure = NULL, message = NULL, "
    " generation = s.generation + (s.last_refreshed_at IS DISTINCT FROM k.answered_at)::integer,"
    " refresh_count = s.refresh_count + (s.last_refreshed_at IS DISTINCT FROM k.answered_at)::integer,"
    " last_refreshed_at = k.answered_at"
    " FROM unnest($1, $2, $3, $4, $5, $6, $7) AS k(n, id, generation, rotated, due_at, expires_at, answered_at)"
    " WHERE s.id = k.id AND (k.rotated OR s.generation = k.generation) RETURNING k.n",
    7,
    {INT4ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, BOOLARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID,
     TIMESTAMPTZARRAYOID},
    nullptr};

// A compare-and-set as well: a failure belongs to the tokens (generation) and to the plan (due_at) that it was
// claimed under. That a grant is dead has been compared with the token itself; a new plan does not revive it.
Statement schedule_failed = {
    "UPDATE token_refresh.schedule s SET status = coalesce(k.status, s.status), due_at = k.due_at,"
    " attempts = k.attempts, lost_response = k.lost_response, failure = k.failure, message = k.message,"
    " refused_token = CASE WHEN k.status = 'needs_reauth' THEN sha256(k.stored) END"
    " FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $12)"
    " AS k(n, id, generation, planned_at, status, due_at, attempts, lost_response, failure, message, stored)"
    " WHERE s.id = k.id AND s.row_key IS NOT NULL AND s.status <> 'disconnected' AND (s.generation = k.generation"
    " AND s.due_at IS NOT DISTINCT FROM k.planned_at OR $11 AND k.status = 'needs_reauth') RETURNING k.n",
    12,
    {INT4ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, INT4ARRAYOID,
     BOOLARRAYOID, TEXTARRAYOID, TEXTARRAYOID, BOOLOID, BYTEAARRAYOID},
    nullptr};

Statement write_audit = {
    "INSERT INTO token_refresh.audit_event"
    " (event, provider, token_table, row_key, subject, label, failure, message, actor)"
    " SELECT k.*, 'refresher' FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)"
    " AS k(event, provider, token_table, row_key, subject, label, failure, message)",
    8,
    {TEXTARRAYOID, TEXTARRAYOID, INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID},
    nullptr};

Statement delete_journals = {
    "DELETE FROM token_refresh.in_flight WHERE id = ANY ($1)", 1, {INT8ARRAYOID}, nullptr};

// Sets marks[n] to 1 for each n that the last statement has returned.
template <class Marks>
void Mark(const SaveWork& work, Marks& marks, uint64 rows) {
  for (uint64 i = 0; i < rows; i++) marks[ResultNumber(i, static_cast<int>(work.outcomes.size()))] = 1;
}

// The status that an outcome gives to its row; empty: it stays.
std::string_view NewStatus(const Outcome& outcome) {
  if (!outcome.failure) return {};
  switch (outcome.failure->failure) {
    case FailureClass::kReauth:
    case FailureClass::kLostResponse:
      return "needs_reauth";
    case FailureClass::kClientConfig:
      return "error";
    default:
      return {};
  }
}

// Whether the row of its table changes although there is no access token.
bool ChangesTokenRow(const Outcome& outcome) {
  return !outcome.rotated_refresh_token.empty() || !NewStatus(outcome).empty();
}

// Whether table wants to hear of every failure, not of a new status alone.
bool RecordsFailures(const TokenTable& table) {
  return !table.built_in && (Has(table, kColumnLastError) || Has(table, kColumnResult));
}

// What table calls the status that an outcome gives to its row; empty: it stays.
std::string_view StatusFor(const TokenTable& table, const Outcome& outcome, Micros now) {
  std::string_view word = NewStatus(outcome);
  if (word.empty() && outcome.failure && !table.built_in && outcome.claim.expires_at && *outcome.claim.expires_at <= now)
    word = kStatusWords[kTokenExpired];
  for (int i = 0; i < kTokenStatuses; i++)
    if (word == kStatusWords[i] && table.status_values[i] != nullptr) return table.status_values[i];
  return {};
}

void WriteTokens(const SaveWork& work, TokenTableStatements* statements, const Picked& rows) {
  auto at = [&](int i) -> const Outcome& { return work.outcomes[i]; };
  const Oid stored = ElementOf(StoredArrayType(*statements->table)), fresh = ElementOf(NewTokenArrayType(*statements->table));
  Datum values[] = {
      Numbers(rows),
      RowKeys(work, rows),
      BytesOrNull(rows, [&](int i) { return std::string_view(work.targets[i].refresh_token); }, stored),
      BytesOrNull(rows, [&](int i) { return std::string_view(work.sealed[i].access_token); }, fresh),
      BytesOrNull(rows, [&](int i) { return std::string_view(work.sealed[i].refresh_token); }, fresh),
      Texts(rows, [&](int i) { return std::string_view(at(i).tokens->token_type); }),
      TextsOrNull(rows, [&](int i) { return std::string_view(at(i).tokens->scope); }),
      Times(rows, [&](int i) { return AnsweredAt(at(i)); }),
      Times(rows, [&](int i) { return at(i).expires_at; }),
      Times(rows, [&](int i) { return at(i).refresh_expires_at; }),
      TextsOrNull(rows, [&](int i) { return std::string_view(at(i).tokens->captured); })};
  MarkWritten(work, ExecuteOnTable(*statements->table, &statements->save, values));
}

void ScheduleRefreshed(const SaveWork& work, const Picked& rows) {
  Datum values[] = {Numbers(rows),
                    ScheduleIds(work, rows),
                    Generations(work, rows),
                    Booleans(rows, [&](int i) { return work.sealed[i].rotated; }),
                    Times(rows, [&](int i) { return work.outcomes[i].ScheduledDueAt(); }),
                    Times(rows, [&](int i) { return work.outcomes[i].ScheduledExpiry(); }),
                    Times(rows, [&](int i) { return AnsweredAt(work.outcomes[i]); })};
  uint64 count = Execute(&schedule_refreshed, values, false);
  if (count == static_cast<uint64>(rows.count)) return;
  char* scheduled = static_cast<char*>(palloc0(work.outcomes.size()));
  Mark(work, scheduled, count);
  RefuseOutdated(work, rows, [&](int i) { return !scheduled[i] && !work.sealed[i].rotated; });
}

void WriteSuccesses(const SaveWork& work) {
  Picked refreshed = Pick(work, [](const Outcome& outcome) { return outcome.tokens.has_value(); });
  if (refreshed.count == 0) return;
  WriteTokens(work, StatementsFor(work.token_table), refreshed);
  Picked written = {static_cast<int*>(palloc(sizeof(int) * refreshed.count)), 0};
  for (int i = 0; i < refreshed.count; i++)
    if (work.written[refreshed.index[i]]) written.index[written.count++] = refreshed.index[i];
  if (written.count > 0) ScheduleRefreshed(work, written);
  StoreSecondary(work, written);
}

void MarkTokenRows(const SaveWork& work, TokenTableStatements* statements, const Picked& rows) {
  if (rows.count == 0) return;
  const TokenTable& table = *statements->table;
  auto status = [&](int i) { return StatusFor(table, work.outcomes[i], work.now); };
  auto error = [&](int i) {
    return RecordsFailures(table) || !status(i).empty() ? std::string_view(work.messages[i]) : std::string_view();
  };
  Datum values[] = {
      Numbers(rows),
      RowKeys(work, rows),
      BytesOrNull(rows, [&](int i) { return std::string_view(work.targets[i].refresh_token); }, ElementOf(StoredArrayType(table))),
      BytesOrNull(rows, [&](int i) { return std::string_view(work.sealed[i].refresh_token); },
                  ElementOf(NewTokenArrayType(table))),
      Times(rows, [&](int i) { return work.outcomes[i].refresh_expires_at; }),
      TextsOrNull(rows, status),
      TextsOrNull(rows, error)};
  MarkWritten(work, ExecuteOnTable(table, &statements->mark, values));
}

// What concerns the stored refresh token goes to its row first, and only if that token is still there. Tells which
// outcomes are to be written to the schedule.
Picked MarkFailures(const SaveWork& work) {
  auto fails = [](const Outcome& o) { return o.failure.has_value(); };
  if (work.schedule_only) return Pick(work, fails);
  Picked any = Pick(work, [&](const Outcome& o) { return fails(o) || ChangesTokenRow(o); });
  if (any.count == 0) return any;
  TokenTableStatements* statements = StatementsFor(work.token_table);
  const bool all = RecordsFailures(*statements->table);
  MarkTokenRows(work, statements, Pick(work, [&](const Outcome& o) { return ChangesTokenRow(o) || (all && fails(o)); }));
  return Pick(work, [&](const Outcome& o) {
    return fails(o) && (!ChangesTokenRow(o) || work.written[&o - work.outcomes.data()]);
  });
}

void WriteFailures(const SaveWork& work) {
  Picked failed = MarkFailures(work);
  if (failed.count == 0) return;
  uint64 scheduled = ScheduleFailed(work, failed, !work.schedule_only);
  auto at = [&](int i) -> const Outcome& { return work.outcomes[i]; };
  // A new refresh token stands in its row, whatever has become of the plan meanwhile.
  for (int i = 0; i < failed.count; i++)
    if (work.schedule_only || at(failed.index[i]).rotated_refresh_token.empty()) work.written[failed.index[i]] = 0;
  MarkWritten(work, scheduled);
  if (!work.schedule_only)
    RefuseOutdated(work, failed, [&](int i) { return NewStatus(at(i)) == "error" && !work.written[i]; });
  // A parked token of a grant that has died is of no use any more.
  Picked dead = Pick(work, [&](const Outcome& o) {
    return o.failure.has_value() && NewStatus(o) == "needs_reauth" && work.written[&o - work.outcomes.data()];
  });
  DeleteParkedRows(work, dead, false);
}

std::string_view EventName(const Outcome& outcome) {
  if (outcome.introspected) return outcome.failure ? "introspection_failed" : "introspected";
  if (outcome.tokens.has_value()) return "refreshed";
  return NewStatus(outcome) == "needs_reauth" ? "needs_reauth" : "refresh_failed";
}

void AuditPicked(const SaveWork& work, const Picked& rows, const char* event) {
  if (rows.count == 0) return;
  auto at = [&](int i) -> const Outcome& { return work.outcomes[i]; };
  Datum values[] = {
      Texts(rows, [&](int i) { return event != nullptr ? std::string_view(event) : EventName(at(i)); }),
      Texts(rows, [&](int i) { return std::string_view(work.provider_names[i]); }),
      TokenTables(work, rows),
      RowKeys(work, rows),
      Texts(rows, [&](int i) { return std::string_view(at(i).claim.subject); }),
      Texts(rows, [&](int i) { return std::string_view(at(i).claim.label); }),
      TextsOrNull(rows, [&](int i) { return at(i).failure ? FailureName(at(i).failure->failure) : std::string_view(); }),
      TextsOrNull(rows, [&](int i) { return std::string_view(work.messages[i]); })};
  Execute(&write_audit, values, false);
}

SaveWork OnlyWritten(const SaveWork& work) {
  SaveWork written = work;
  size_t* kept = static_cast<size_t*>(palloc(sizeof(size_t) * (work.which.size() + 1)));
  size_t count = 0;
  for (size_t i : work.which)
    if (work.written[i]) kept[count++] = i;
  written.which = {kept, count};
  return written;
}

}  // namespace

void MarkWritten(const SaveWork& work, uint64 rows) { Mark(work, work.written, rows); }

uint64 ExecuteOnTable(const TokenTable& table, Statement* statement, Datum* values) {
  SetOwnWrites(table.id);
  TableScope scope;
  if (!table.built_in) EnterTableScope(table, true, &scope);
  uint64 rows = Execute(statement, values, false);
  if (!table.built_in) LeaveTableScope(scope);
  SetOwnWrites(0);
  return rows;
}

void CommitToDisk() {
  if (synchronous_commit == SYNCHRONOUS_COMMIT_OFF)
    set_config_option("synchronous_commit", "local", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

uint64 ScheduleFailed(const SaveWork& work, const Picked& failed, bool rows_written) {
  if (failed.count == 0) return 0;
  auto at = [&](int i) -> const Outcome& { return work.outcomes[i]; };
  Datum values[] = {
      Numbers(failed),
      ScheduleIds(work, failed),
      Generations(work, failed),
      Times(failed, [&](int i) { return at(i).claim.due_at; }),
      TextsOrNull(failed, [&](int i) { return NewStatus(at(i)); }),
      Times(failed, [&](int i) { return at(i).due_at; }),
      Ints(failed, [&](int i) { return at(i).attempts; }),
      Booleans(failed, [&](int i) { return at(i).lost_response; }),
      Texts(failed, [&](int i) { return FailureName(at(i).failure->failure); }),
      TextsOrNull(failed, [&](int i) { return std::string_view(at(i).failure->message); }),
      BoolGetDatum(rows_written),
      BytesOrNull(failed, [&](int i) { return std::string_view(work.targets[i].refresh_token); }, BYTEAOID)};
  return Execute(&schedule_failed, values, false);
}

void WriteOutcomes(const SaveWork& work) {
  CommitToDisk();
  WriteSuccesses(work);
  WriteLearned(work);
  WriteFailures(work);
  for (size_t i : work.which)
    if (work.outcomes[i].released) work.written[i] = 1;
  if (work.from_parked) DeleteParkedResults(OnlyWritten(work), false);
  AuditPicked(work, Pick(work, [&](const Outcome& o) {
                return !o.released && work.written[&o - work.outcomes.data()];
              }),
              work.from_parked ? "parked_result_stored" : nullptr);
  DeleteFinishedNotes(work);
}

void WriteAudit(const SaveWork& work, const char* event) { AuditPicked(work, PickAll(work), event); }

void DeleteFinishedNotes(const SaveWork& work) {
  int64_t* finished = static_cast<int64_t*>(palloc(sizeof(int64_t) * (work.notes.size() + 1)));
  int count = 0;
  for (const OpenNote& note : work.notes) {
    int left = note.left;
    for (size_t i : work.which)
      if (work.outcomes[i].claim.journal_id == note.id && (work.written.empty() || work.written[i])) left--;
    if (left <= 0) finished[count++] = note.id;
  }
  if (count == 0) return;
  Datum values[] = {MakeArray(count, INT8OID, [&](int i, bool*) { return Int64GetDatum(finished[i]); })};
  Execute(&delete_journals, values, false);
}

}  // namespace token_refresh
