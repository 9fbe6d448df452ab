// The transactions that park fresh tokens, and that forget parked ones.
#include "pg/save_arrays.h"
#include "pg/statements.h"

namespace token_refresh {

namespace {

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

Statement postpone_parked = {
    "UPDATE token_refresh.parked_result p SET reason = $3, attempts = p.attempts + 1, retry_at = clock_timestamp()"
    " + greatest($4, least(30, power(2, least(p.attempts + 1, 5)))) * interval '1 second'"
    " FROM unnest($1, $2) AS k(token_table, row_key) WHERE p.token_table = k.token_table AND p.row_key = k.row_key",
    4,
    {INT4ARRAYOID, TEXTARRAYOID, TEXTOID, INT4OID},
    nullptr};

Statement postpone_schedule = {
    "WITH free AS (SELECT s.id FROM unnest($1, $2) AS k(token_table, row_key)"
    "  JOIN token_refresh.schedule s USING (token_table, row_key)"
    "  WHERE s.due_at < clock_timestamp() + $3 * interval '1 second' FOR NO KEY UPDATE OF s SKIP LOCKED)"
    " UPDATE token_refresh.schedule s SET due_at = clock_timestamp() + $3 * interval '1 second'"
    " FROM free WHERE s.id = free.id",
    3,
    {INT4ARRAYOID, TEXTARRAYOID, INT4OID},
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

}  // namespace

void DeleteParkedRows(const SaveWork& work, const Picked& rows, bool unrotated) {
  if (rows.count == 0) return;
  Datum values[] = {TokenTables(work, rows), RowKeys(work, rows), BoolGetDatum(unrotated)};
  Execute(&delete_parked, values, false);
}

void DeleteParkedResults(const SaveWork& work, bool unrotated) { DeleteParkedRows(work, PickAll(work), unrotated); }

void WriteParked(const SaveWork& work, const std::string& reason) {
  CommitToDisk();
  Picked rows = PickAll(work);
  auto at = [&](int i) -> const Outcome& { return work.outcomes[i]; };
  Datum values[] = {
      TokenTables(work, rows),
      RowKeys(work, rows),
      BytesOrNull(rows, [&](int i) { return std::string_view(work.sealed[i].replaced); }),
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
  DeleteFinishedNotes(work);
}

void ScheduleParked(const SaveWork& work) {
  // A refresh token alone is a failure like any other for the schedule; to park it again changes nothing there.
  ScheduleFailed(work, Pick(work, [](const Outcome& o) { return o.failure.has_value(); }), false);
  Picked rows = Pick(work, [](const Outcome& o) { return o.tokens.has_value(); });
  if (rows.count == 0) return;
  Datum values[] = {TokenTables(work, rows), RowKeys(work, rows), BoolGetDatum(!work.from_parked)};
  Execute(&schedule_parked, values, false);
}

void PostponeParked(std::span<const ParkedKey> rows, const char* reason, int least_seconds) {
  const int count = static_cast<int>(rows.size());
  Datum tables = MakeArray(count, INT4OID, [&](int i, bool*) { return Int32GetDatum(rows[i].token_table); });
  Datum keys = MakeArray(count, TEXTOID, [&](int i, bool*) { return CStringGetTextDatum(rows[i].row_key); });
  Datum of_parked[] = {tables, keys, CStringGetTextDatum(reason), Int32GetDatum(least_seconds)};
  Execute(&postpone_parked, of_parked, false);
  if (least_seconds == 0) return;
  Datum of_schedule[] = {tables, keys, Int32GetDatum(least_seconds)};
  Execute(&postpone_schedule, of_schedule, false);
}

}  // namespace token_refresh
