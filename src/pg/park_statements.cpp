// The transactions that park fresh tokens, and that forget parked ones.
#include "pg/catalog.h"
#include "pg/parked_result.h"
#include "pg/save_arrays.h"
#include "pg/secondary_tokens.h"
#include "pg/statements.h"

namespace token_refresh {

namespace {

Statement delete_parked = {
    "DELETE FROM token_refresh.parked_result WHERE schedule_id = ANY ($1) AND (NOT $2 OR refresh_token IS NULL)",
    2,
    {INT8ARRAYOID, BOOLOID},
    nullptr};

// Tried again after 1, 2, 4 ... 30 seconds.
Statement write_parked = {
    "INSERT INTO token_refresh.parked_result AS p (schedule_id, token_table, row_key, replaces_refresh_token,"
    " access_token, refresh_token, token_type, scope, issued_at, expires_at, refresh_expires_at, due_at, generation,"
    " replaces, expiry_assumed, reason, captured, retry_at)"
    " SELECT k.id, k.token_table, k.row_key, k.old, k.access, k.refresh, k.token_type, k.scope, k.issued_at,"
    " k.expires_at, k.refresh_expires_at, k.due_at, k.generation, k.replaces, k.expiry_assumed, $17, k.captured::jsonb,"
    " clock_timestamp() + interval '1 second'"
    " FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) AS k(id, token_table, row_key,"
    " old, access, refresh, token_type, scope, issued_at, expires_at, refresh_expires_at, due_at, generation, replaces,"
    " expiry_assumed, captured)"
    " ON CONFLICT (schedule_id) DO UPDATE SET row_key = excluded.row_key,"
    " replaces_refresh_token = excluded.replaces_refresh_token,"
    " replaces = coalesce(excluded.replaces, p.replaces), access_token = coalesce(excluded.access_token, p.access_token),"
    " refresh_token = coalesce(excluded.refresh_token, p.refresh_token),"
    " token_type = CASE WHEN excluded.access_token IS NULL THEN p.token_type ELSE excluded.token_type END,"
    " scope = coalesce(excluded.scope, p.scope), captured = coalesce(excluded.captured, p.captured),"
    " issued_at = CASE WHEN excluded.access_token IS NULL THEN p.issued_at ELSE excluded.issued_at END,"
    " expires_at = CASE WHEN excluded.access_token IS NULL THEN p.expires_at ELSE excluded.expires_at END,"
    " expiry_assumed = CASE WHEN excluded.access_token IS NULL THEN p.expiry_assumed ELSE excluded.expiry_assumed END,"
    " refresh_expires_at = excluded.refresh_expires_at, due_at = excluded.due_at, generation = excluded.generation,"
    " reason = excluded.reason, attempts = p.attempts + 1,"
    " retry_at = clock_timestamp() + least(30, power(2, least(p.attempts + 1, 5))) * interval '1 second'",
    17,
    {INT8ARRAYOID, INT4ARRAYOID, TEXTARRAYOID, BYTEAARRAYOID, BYTEAARRAYOID, BYTEAARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
     TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, INT8ARRAYOID, BYTEAARRAYOID,
     BOOLARRAYOID, TEXTARRAYOID, TEXTOID},
    nullptr};

Statement postpone_parked = {
    "UPDATE token_refresh.parked_result SET reason = $2, attempts = attempts + 1, retry_at = clock_timestamp()"
    " + greatest($3, least(30, power(2, least(attempts + 1, 5)))) * interval '1 second' WHERE schedule_id = ANY ($1)",
    3,
    {INT8ARRAYOID, TEXTOID, INT4OID},
    nullptr};

Statement postpone_schedule = {
    "WITH free AS (SELECT s.id FROM token_refresh.schedule s WHERE s.id = ANY ($1)"
    "  AND s.due_at < clock_timestamp() + $2 * interval '1 second' FOR NO KEY UPDATE OF s SKIP LOCKED)"
    " UPDATE token_refresh.schedule s SET due_at = clock_timestamp() + $2 * interval '1 second'"
    " FROM free WHERE s.id = free.id",
    2,
    {INT8ARRAYOID, INT4OID},
    nullptr};

// Parked tokens fall due like any others. Rows that somebody holds locked stay as they are. What the schedule
// knows of the provider changes only if these are tokens that it has just given. They count as stored; what
// the parked result knows of the tokens in the row moves on with that, and so stays true.
Statement schedule_parked = {
    "WITH free AS (SELECT s.id, s.last_refreshed_at IS DISTINCT FROM p.issued_at AS news"
    "  FROM token_refresh.schedule s JOIN token_refresh.parked_result p ON p.schedule_id = s.id"
    "  WHERE s.id = ANY ($1) AND s.status <> 'disconnected' AND s.row_key IS NOT NULL FOR NO KEY UPDATE OF s SKIP LOCKED),"
    " scheduled AS (UPDATE token_refresh.schedule s SET"
    " due_at = p.due_at,"
    " status = CASE WHEN $2 THEN 'connected' ELSE s.status END,"
    " attempts = CASE WHEN $2 THEN 0 ELSE s.attempts END,"
    " lost_response = s.lost_response AND NOT $2,"
    " failure = CASE WHEN NOT $2 THEN s.failure END,"
    " message = CASE WHEN NOT $2 THEN s.message END,"
    " generation = s.generation + free.news::integer,"
    " refresh_count = s.refresh_count + free.news::integer,"
    " last_refreshed_at = p.issued_at"
    " FROM token_refresh.parked_result p, free"
    " WHERE s.id = free.id AND p.schedule_id = s.id RETURNING s.id, free.news)"
    " UPDATE token_refresh.parked_result p SET generation = p.generation + 1 FROM scheduled c"
    " WHERE c.news AND p.schedule_id = c.id",
    2,
    {INT8ARRAYOID, BOOLOID},
    nullptr};

Datum One(Oid type, Datum value, bool is_null = false) {
  return MakeArray(1, type, [&](int, bool* null) {
    *null = is_null;
    return value;
  });
}

Datum OneOrNull(Oid type, const void* value) { return One(type, PointerGetDatum(value), value == nullptr); }

Datum OneTextOrNull(const char* value) {
  return One(TEXTOID, value != nullptr ? CStringGetTextDatum(value) : 0, value == nullptr);
}

Datum OneTime(const ParkedTime& time) { return One(TIMESTAMPTZOID, TimestampTzGetDatum(time.at), !time.known); }

// The same tokens for the schedule, if its rows are free.
void ScheduleParkedRows(Datum schedule_ids, bool news) {
  Datum values[] = {schedule_ids, BoolGetDatum(news)};
  Execute(&schedule_parked, values, false);
}

}  // namespace

void DeleteParkedRows(const SaveWork& work, const Picked& rows, bool unrotated) {
  if (rows.count == 0) return;
  Datum values[] = {ScheduleIds(work, rows), BoolGetDatum(unrotated)};
  Execute(&delete_parked, values, false);
}

void DeleteParkedResults(const SaveWork& work, bool unrotated) { DeleteParkedRows(work, PickAll(work), unrotated); }

void WriteParked(const SaveWork& work, const std::string& reason) {
  CommitToDisk();
  Picked rows = PickAll(work);
  auto at = [&](int i) -> const Outcome& { return work.outcomes[i]; };
  Datum values[] = {
      ScheduleIds(work, rows),
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
      BytesOrNull(rows, [&](int i) { return std::string_view(work.sealed[i].replaced_digest); }),
      Booleans(rows, [&](int i) { return at(i).expiry_assumed; }),
      TextsOrNull(rows, [&](int i) { return at(i).tokens ? std::string_view(at(i).tokens->captured) : ""; }),
      TextDatum(reason)};
  Execute(&write_parked, values, false);
  if (!work.from_parked) WriteAudit(work, "parked");
  // Those that have been parked before have none any more.
  StoreSecondary(work, Pick(work, [](const Outcome& o) { return o.tokens.has_value(); }));
  DeleteFinishedNotes(work);
}

void ScheduleParked(const SaveWork& work) {
  // A refresh token alone is a failure like any other for the schedule; to park it again changes nothing there.
  ScheduleFailed(work, Pick(work, [](const Outcome& o) { return o.failure.has_value(); }), false);
  Picked rows = Pick(work, [](const Outcome& o) { return o.tokens.has_value(); });
  if (rows.count == 0) return;
  ScheduleParkedRows(ScheduleIds(work, rows), !work.from_parked);
}

void WriteParkedResult(const ParkedResult& parked, const char* reason) {
  Datum values[] = {One(INT8OID, Int64GetDatum(parked.schedule_id)),
                    One(INT4OID, Int32GetDatum(kBuiltInTokenTable)),
                    OneTextOrNull(parked.row_key),
                    OneOrNull(BYTEAOID, parked.replaces_refresh_token),
                    OneOrNull(BYTEAOID, parked.tokens.access_token),
                    OneOrNull(BYTEAOID, parked.tokens.refresh_token),
                    OneTextOrNull(parked.tokens.token_type),
                    OneTextOrNull(parked.tokens.scope),
                    OneTime(parked.tokens.issued_at),
                    OneTime(parked.tokens.expires_at),
                    OneTime(parked.tokens.refresh_expires_at),
                    OneTime(parked.due_at),
                    One(INT8OID, Int64GetDatum(parked.generation)),
                    OneOrNull(BYTEAOID, parked.replaces),
                    One(BOOLOID, BoolGetDatum(parked.expiry_assumed)),
                    OneTextOrNull(parked.tokens.captured),
                    CStringGetTextDatum(reason)};
  Execute(&write_parked, values, false);
  ScheduleParkedRows(One(INT8OID, Int64GetDatum(parked.schedule_id)), true);
}

void PostponeParked(std::span<const int64_t> schedule_ids, const char* reason, int least_seconds) {
  Datum ids = MakeArray(static_cast<int>(schedule_ids.size()), INT8OID,
                        [&](int i, bool*) { return Int64GetDatum(schedule_ids[i]); });
  Datum of_parked[] = {ids, CStringGetTextDatum(reason), Int32GetDatum(least_seconds)};
  Execute(&postpone_parked, of_parked, false);
  if (least_seconds == 0) return;
  Datum of_schedule[] = {ids, Int32GetDatum(least_seconds)};
  Execute(&postpone_schedule, of_schedule, false);
}

}  // namespace token_refresh
