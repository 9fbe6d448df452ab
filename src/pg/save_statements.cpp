#include "pg/save_statements.h"

#include "pg/spi_arrays.h"
#include "pg/statements.h"

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
    " attempts = k.attempts, lost_response = k.lost_response, failure = k.failure, message = k.message"
    " FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
    " AS k(n, id, generation, planned_at, status, due_at, attempts, lost_response, failure, message)"
    " WHERE s.id = k.id AND s.status <> 'disconnected' AND (s.generation = k.generation"
    " AND s.due_at IS NOT DISTINCT FROM k.planned_at OR $11 AND k.status = 'needs_reauth') RETURNING k.n",
    11,
    {INT4ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, INT4ARRAYOID,
     BOOLARRAYOID, TEXTARRAYOID, TEXTARRAYOID, BOOLOID},
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

Statement delete_parked = {
    "DELETE FROM token_refresh.parked_result p USING unnest($1, $2) AS k(token_table, row_key)"
    " WHERE p.token_table = k.token_table AND p.row_key = k.row_key AND (NOT $3 OR p.refresh_token IS NULL)",
    3,
    {INT4ARRAYOID, TEXTARRAYOID, BOOLOID},
    nullptr};

// Tried again after 1, 2, 4 ... 30 seconds.
Statement write_parked = {
    "INSERT INTO token_refresh.parked_result AS p (token_table, row_key, replaces_refresh_token, access_token,"
    " refresh_token, token_type, scope, issued_at, expires_at, refresh_expires_at, due_at, generation, reason, retry_at)"
    " SELECT k.*, $13, clock_timestamp() + interval '1 second'"
    " FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) AS k(token_table, row_key, old, access, refresh,"
    " token_type, scope, issued_at, expires_at, refresh_expires_at, due_at, generation)"
    " ON CONFLICT (token_table, row_key) DO UPDATE SET access_token = coalesce(excluded.access_token, p.access_token),"
    " refresh_token = coalesce(excluded.refresh_token, p.refresh_token),"
    " token_type = CASE WHEN excluded.access_token IS NULL THEN p.token_type ELSE excluded.token_type END,"
    " scope = coalesce(excluded.scope, p.scope),"
    " issued_at = CASE WHEN excluded.access_token IS NULL THEN p.issued_at ELSE excluded.issued_at END,"
    " expires_at = CASE WHEN excluded.access_token IS NULL THEN p.expires_at ELSE excluded.expires_at END,"
    " refresh_expires_at = excluded.refresh_expires_at, due_at = excluded.due_at, generation = excluded.generation,"
    " reason = excluded.reason, attempts = p.attempts + 1,"
    " retry_at = clock_timestamp() + least(30, power(2, least(p.attempts + 1, 5))) * interval '1 second'",
    13,
    {INT4ARRAYOID, TEXTARRAYOID, BYTEAARRAYOID, BYTEAARRAYOID, BYTEAARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
     TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, INT8ARRAYOID, TEXTOID},
    nullptr};

// Parked tokens fall due like any others. Rows that somebody holds locked stay as they are. What the schedule
// knows of the provider changes only if these are tokens that it has just given. They count as stored; what
// the parked result knows of the tokens in the row moves on with that, and so stays true.
Statement schedule_parked = {
    "WITH free AS (SELECT s.id, s.last_refreshed_at IS DISTINCT FROM p.issued_at AS news"
    "  FROM unnest($1, $2) AS k(token_table, row_key) JOIN token_refresh.schedule s USING (token_table, row_key)"
    "  JOIN token_refresh.parked_result p USING (token_table, row_key)"
    "  WHERE s.status <> 'disconnected' FOR NO KEY UPDATE OF s SKIP LOCKED),"
    " scheduled AS (UPDATE token_refresh.schedule s SET"
    " due_at = p.due_at,"
    " status = CASE WHEN $3 THEN 'connected' ELSE s.status END,"
    " attempts = CASE WHEN $3 THEN 0 ELSE s.attempts END,"
    " lost_response = s.lost_response AND NOT $3,"
    " failure = CASE WHEN NOT $3 THEN s.failure END,"
    " message = CASE WHEN NOT $3 THEN s.message END,"
    " generation = s.generation + free.news::integer,"
    " refresh_count = s.refresh_count + free.news::integer,"
    " last_refreshed_at = p.issued_at"
    " FROM token_refresh.parked_result p, free"
    " WHERE s.id = free.id AND p.token_table = s.token_table AND p.row_key = s.row_key"
    " RETURNING s.token_table, s.row_key, free.news)"
    " UPDATE token_refresh.parked_result p SET generation = p.generation + 1 FROM scheduled c"
    " WHERE c.news AND p.token_table = c.token_table AND p.row_key = c.row_key",
    3,
    {INT4ARRAYOID, TEXTARRAYOID, BOOLOID},
    nullptr};

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

template <class Get>
Datum BytesOrNull(const Picked& picked, Get get) {
  return MakeArray(picked.count, BYTEAOID,
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

Datum Numbers(const Picked& picked) {
  return Ints(picked, [](int i) { return i; });
}

Datum RowKeys(const SaveWork& work, const Picked& picked) {
  return Texts(picked, [&](int i) { return std::string_view(work.outcomes[i].claim.row_key); });
}

Datum TokenTables(const SaveWork& work, const Picked& picked) {
  return Ints(picked, [&](int i) { return work.outcomes[i].claim.token_table; });
}

Datum Generations(const SaveWork& work, const Picked& picked) {
  return Bigints(picked, [&](int i) { return work.outcomes[i].claim.generation; });
}

// Sets marks[n] to 1 for each n that the last statement has returned.
template <class Marks>
void Mark(Marks& marks, uint64 rows) {
  bool is_null;
  for (uint64 i = 0; i < rows; i++)
    marks[DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null))] = 1;
}

void MarkWritten(const SaveWork& work, uint64 rows) { Mark(work.written, rows); }

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

std::optional<Micros> AnsweredAt(const Outcome& outcome) { return outcome.answered_at; }

// Calls write(table's statements, picked rows of that table) for each token table among picked.
template <class Write>
void ForEachTable(const SaveWork& work, const Picked& picked, Write write) {
  bool* done = static_cast<bool*>(palloc0(picked.count + 1));
  for (int i = 0; i < picked.count; i++) {
    if (done[i]) continue;
    int32_t table = work.outcomes[picked.index[i]].claim.token_table;
    Picked same = {static_cast<int*>(palloc(sizeof(int) * picked.count)), 0};
    for (int j = i; j < picked.count; j++) {
      if (work.outcomes[picked.index[j]].claim.token_table != table) continue;
      done[j] = true;
      same.index[same.count++] = picked.index[j];
    }
    write(StatementsFor(table), same);
  }
}

void WriteTokens(const SaveWork& work, TokenTableStatements* statements, const Picked& rows) {
  auto at = [&](int i) -> const Outcome& { return work.outcomes[i]; };
  Datum values[] = {
      Numbers(rows),
      RowKeys(work, rows),
      BytesOrNull(rows, [&](int i) { return std::string_view(work.expected[i]); }),
      BytesOrNull(rows, [&](int i) { return std::string_view(work.sealed[i].access_token); }),
      BytesOrNull(rows, [&](int i) { return std::string_view(work.sealed[i].refresh_token); }),
      Texts(rows, [&](int i) { return std::string_view(at(i).tokens->token_type); }),
      TextsOrNull(rows, [&](int i) { return std::string_view(at(i).tokens->scope); }),
      Times(rows, [&](int i) { return AnsweredAt(at(i)); }),
      Times(rows, [&](int i) { return at(i).expires_at; }),
      Times(rows, [&](int i) { return at(i).refresh_expires_at; })};
  MarkWritten(work, Execute(&statements->save, values, false));
}

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

void ScheduleRefreshed(const SaveWork& work, const Picked& rows) {
  Datum values[] = {Numbers(rows),
                    Bigints(rows, [&](int i) { return work.outcomes[i].claim.schedule_id; }),
                    Generations(work, rows),
                    Booleans(rows, [&](int i) { return work.sealed[i].rotated; }),
                    Times(rows, [&](int i) { return work.outcomes[i].due_at; }),
                    Times(rows, [&](int i) { return work.outcomes[i].expires_at; }),
                    Times(rows, [&](int i) { return AnsweredAt(work.outcomes[i]); })};
  uint64 count = Execute(&schedule_refreshed, values, false);
  if (count == static_cast<uint64>(rows.count)) return;
  char* scheduled = static_cast<char*>(palloc0(work.outcomes.size()));
  Mark(scheduled, count);
  RefuseOutdated(work, rows, [&](int i) { return !scheduled[i] && !work.sealed[i].rotated; });
}

void WriteSuccesses(const SaveWork& work) {
  Picked refreshed = Pick(work, [](const Outcome& outcome) { return outcome.tokens.has_value(); });
  if (refreshed.count == 0) return;
  ForEachTable(work, refreshed,
               [&](TokenTableStatements* statements, const Picked& rows) { WriteTokens(work, statements, rows); });
  Picked written = {static_cast<int*>(palloc(sizeof(int) * refreshed.count)), 0};
  for (int i = 0; i < refreshed.count; i++)
    if (work.written[refreshed.index[i]]) written.index[written.count++] = refreshed.index[i];
  if (written.count > 0) ScheduleRefreshed(work, written);
}

void DeleteParkedRows(const SaveWork& work, const Picked& rows, bool unrotated) {
  if (rows.count == 0) return;
  Datum values[] = {TokenTables(work, rows), RowKeys(work, rows), BoolGetDatum(unrotated)};
  Execute(&delete_parked, values, false);
}

void MarkTokenRows(const SaveWork& work, TokenTableStatements* statements, const Picked& rows) {
  Datum values[] = {
      Numbers(rows), RowKeys(work, rows),
      BytesOrNull(rows, [&](int i) { return std::string_view(work.expected[i]); }),
      BytesOrNull(rows, [&](int i) { return std::string_view(work.sealed[i].refresh_token); }),
      Times(rows, [&](int i) { return work.outcomes[i].refresh_expires_at; }),
      TextsOrNull(rows, [&](int i) { return NewStatus(work.outcomes[i]); }),
      Texts(rows, [&](int i) { return std::string_view(work.messages[i]); })};
  MarkWritten(work, Execute(&statements->mark, values, false));
}

// Returns how many rows the schedule has taken; their numbers are in SPI_tuptable.
uint64 ScheduleFailed(const SaveWork& work, const Picked& failed, bool rows_written) {
  if (failed.count == 0) return 0;
  auto at = [&](int i) -> const Outcome& { return work.outcomes[i]; };
  Datum values[] = {
      Numbers(failed),
      Bigints(failed, [&](int i) { return at(i).claim.schedule_id; }),
      Generations(work, failed),
      Times(failed, [&](int i) { return at(i).claim.due_at; }),
      TextsOrNull(failed, [&](int i) { return NewStatus(at(i)); }),
      Times(failed, [&](int i) { return at(i).due_at; }),
      Ints(failed, [&](int i) { return at(i).attempts; }),
      Booleans(failed, [&](int i) { return at(i).lost_response; }),
      Texts(failed, [&](int i) { return FailureName(at(i).failure->failure); }),
      TextsOrNull(failed, [&](int i) { return std::string_view(at(i).failure->message); }),
      BoolGetDatum(rows_written)};
  return Execute(&schedule_failed, values, false);
}

void WriteFailures(const SaveWork& work) {
  // What concerns the stored refresh token goes to its row first, and only if that token is still there.
  Picked marking = Pick(work, [&](const Outcome& o) { return ChangesTokenRow(o) && !work.schedule_only; });
  ForEachTable(work, marking,
               [&](TokenTableStatements* statements, const Picked& rows) { MarkTokenRows(work, statements, rows); });
  Picked failed = Pick(work, [&](const Outcome& o) {
    return o.failure.has_value() &&
           (!ChangesTokenRow(o) || work.schedule_only || work.written[&o - work.outcomes.data()]);
  });
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

// A rotated token that the caller has seen must survive a crash, whatever the server's default for
// commits is. A stronger setting stays.
void CommitToDisk() {
  if (synchronous_commit == SYNCHRONOUS_COMMIT_OFF)
    set_config_option("synchronous_commit", "local", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

std::string_view EventName(const Outcome& outcome) {
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

Picked PickAll(const SaveWork& work) {
  return Pick(work, [](const Outcome&) { return true; });
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

void WriteOutcomes(const SaveWork& work) {
  CommitToDisk();
  WriteSuccesses(work);
  WriteFailures(work);
  for (size_t i : work.which)
    if (work.outcomes[i].released) work.written[i] = 1;
  if (work.from_parked) DeleteParkedResults(OnlyWritten(work), false);
  AuditPicked(work, Pick(work, [&](const Outcome& o) {
                return !o.released && work.written[&o - work.outcomes.data()];
              }),
              work.from_parked ? "parked_result_stored" : nullptr);
  DeleteJournals(work.finished_journals);
}

void WriteAudit(const SaveWork& work, const char* event) { AuditPicked(work, PickAll(work), event); }

void DeleteJournals(std::span<const int64_t> journals) {
  if (journals.empty()) return;
  Datum values[] = {MakeArray(static_cast<int>(journals.size()), INT8OID,
                              [&](int i, bool*) { return Int64GetDatum(journals[i]); })};
  Execute(&delete_journals, values, false);
}

void DeleteParkedResults(const SaveWork& work, bool unrotated) { DeleteParkedRows(work, PickAll(work), unrotated); }

void WriteParked(const SaveWork& work, const std::string& reason) {
  CommitToDisk();
  Picked rows = PickAll(work);
  auto at = [&](int i) -> const Outcome& { return work.outcomes[i]; };
  Datum values[] = {
      TokenTables(work, rows),
      RowKeys(work, rows),
      BytesOrNull(rows, [&](int i) { return std::string_view(work.expected[i]); }),
      BytesOrNull(rows, [&](int i) { return std::string_view(work.sealed[i].access_token); }),
      BytesOrNull(rows, [&](int i) { return std::string_view(work.sealed[i].refresh_token); }),
      Texts(rows, [&](int i) { return at(i).tokens ? std::string_view(at(i).tokens->token_type) : ""; }),
      TextsOrNull(rows, [&](int i) { return at(i).tokens ? std::string_view(at(i).tokens->scope) : ""; }),
      Times(rows, [&](int i) { return AnsweredAt(at(i)); }),
      Times(rows, [&](int i) { return at(i).expires_at; }),
      Times(rows, [&](int i) { return at(i).refresh_expires_at; }),
      Times(rows, [&](int i) { return at(i).due_at; }),
      Generations(work, rows),
      TextDatum(reason)};
  Execute(&write_parked, values, false);
  if (!work.from_parked) WriteAudit(work, "parked");
  DeleteJournals(work.finished_journals);
}

void ScheduleParked(const SaveWork& work) {
  // A refresh token alone is a failure like any other for the schedule; to park it again changes nothing there.
  ScheduleFailed(work, Pick(work, [](const Outcome& o) { return o.failure.has_value(); }), false);
  Picked rows = Pick(work, [](const Outcome& o) { return o.tokens.has_value(); });
  if (rows.count == 0) return;
  Datum values[] = {TokenTables(work, rows), RowKeys(work, rows), BoolGetDatum(!work.from_parked)};
  Execute(&schedule_parked, values, false);
}

}  // namespace token_refresh
