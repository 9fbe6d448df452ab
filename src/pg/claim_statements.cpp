#include "pg/claim_statements.h"

#include <algorithm>

#include "pg/provider_cache.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"

namespace token_refresh {

namespace {

// What somebody else has locked is left out, not waited for.
Statement lock_demanded = {
    "SELECT id FROM token_refresh.schedule WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED",
    1,
    {INT8ARRAYOID},
    nullptr};

Statement read_schedule = {
    "SELECT r.n, s.provider, s.token_table, s.row_key, s.status, s.due_at, s.expires_at, s.attempts,"
    " s.lost_response, s.generation, s.last_refreshed_at,"
    " EXISTS (SELECT FROM token_refresh.parked_result p WHERE p.schedule_id = s.id)"
    " FROM unnest($1) WITH ORDINALITY AS r(id, n)"
    " JOIN token_refresh.schedule s ON s.id = r.id AND s.row_key IS NOT NULL",
    1,
    {INT8ARRAYOID},
    nullptr};

Statement write_journal = {
    "INSERT INTO token_refresh.in_flight (schedule_ids, only_asked) VALUES ($1, $2) RETURNING id",
    2,
    {INT8ARRAYOID, INT8ARRAYOID},
    nullptr};

Statement note_refresh = {"UPDATE token_refresh.in_flight SET only_asked = array_remove(only_asked, $2) WHERE id = $1",
                          2,
                          {INT8OID, INT8OID},
                          nullptr};

Statement narrow_note = {
    "UPDATE token_refresh.in_flight SET schedule_ids = $2 WHERE id = $1", 2, {INT8OID, INT8ARRAYOID}, nullptr};

Statement delete_note = {"DELETE FROM token_refresh.in_flight WHERE id = $1", 1, {INT8OID}, nullptr};

// Rows that can never be refreshed as they are: out of the way until their tokens change.
Statement never_due = {
    "WITH free AS (SELECT s.id, k.status, k.left_alone FROM token_refresh.schedule s"
    "  JOIN unnest($1, $2, $3, $4) AS k(id, generation, status, left_alone)"
    "  ON s.id = k.id AND s.generation = k.generation FOR NO KEY UPDATE OF s SKIP LOCKED)"
    " UPDATE token_refresh.schedule s SET due_at = NULL, status = coalesce(free.status, s.status),"
    " left_alone = free.left_alone FROM free WHERE s.id = free.id",
    4,
    {INT8ARRAYOID, INT8ARRAYOID, TEXTARRAYOID, BOOLARRAYOID},
    nullptr};

// A ciphertext that does not open, or a table that has lost a column, is for a person to mend: said in the
// status, tried again now and then.
Statement mark_unreadable = {
    "WITH free AS (SELECT s.id, k.message, k.until FROM token_refresh.schedule s"
    "  JOIN unnest($1, $2, $3, $4) AS k(id, generation, message, until)"
    "  ON s.id = k.id AND s.generation = k.generation FOR NO KEY UPDATE OF s SKIP LOCKED)"
    " UPDATE token_refresh.schedule s SET status = 'error', failure = 'client_config', message = free.message,"
    " due_at = coalesce(free.until, clock_timestamp() + interval '5 minutes') FROM free WHERE s.id = free.id",
    4,
    {INT8ARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID},
    nullptr};

char* GetText(HeapTuple tuple, TupleDesc desc, int column) {
  bool is_null;
  Datum value = SPI_getbinval(tuple, desc, column, &is_null);
  return is_null ? pstrdup("") : TextDatumGetCString(value);
}

bool GetTime(HeapTuple tuple, TupleDesc desc, int column, TimestampTz* time) {
  bool is_null;
  Datum value = SPI_getbinval(tuple, desc, column, &is_null);
  *time = is_null ? 0 : DatumGetTimestampTz(value);
  return !is_null;
}

void ReadScheduleRow(HeapTuple tuple, TupleDesc desc, PlainClaim* row) {
  bool is_null;
  row->found = true;
  row->provider = DatumGetInt32(SPI_getbinval(tuple, desc, 2, &is_null));
  row->token_table = DatumGetInt32(SPI_getbinval(tuple, desc, 3, &is_null));
  row->row_key = GetText(tuple, desc, 4);
  row->status = GetText(tuple, desc, 5);
  row->due = GetTime(tuple, desc, 6, &row->due_at);
  row->expires = GetTime(tuple, desc, 7, &row->expires_at);
  row->attempts = DatumGetInt32(SPI_getbinval(tuple, desc, 8, &is_null));
  row->lost_response = DatumGetBool(SPI_getbinval(tuple, desc, 9, &is_null));
  row->generation = DatumGetInt64(SPI_getbinval(tuple, desc, 10, &is_null));
  row->refreshed_before = GetTime(tuple, desc, 11, &row->last_refreshed_at);
  row->parked = DatumGetBool(SPI_getbinval(tuple, desc, 12, &is_null));
}

bool IsDead(TokenStatus status) { return status == kNeedsReauth || status == kDisconnected; }

bool HasStatus(const PlainClaim& row, TokenStatus status) { return strcmp(row.status, kStatusWords[status]) == 0; }

// Decides what can be decided from the schedule alone; nothing: go on to the token row.
std::optional<Refusal> JudgeSchedule(Micros now, const ClaimRequest& request, const PlainClaim& row) {
  if (!row.found) return Refusal::kNotFound;
  if (row.locked) return Refusal::kLocked;
  if (request.on_demand && request.seen_generation >= 0 && request.seen_generation != row.generation)
    return Refusal::kAlreadyRefreshed;
  if (HasStatus(row, kNeedsReauth)) return Refusal::kNeedsReauth;
  // Tokens for a credential that has been disconnected meanwhile are stored all the same.
  if (row.parked) return Refusal::kParked;
  if (HasStatus(row, kDisconnected)) return Refusal::kNeedsReauth;
  if (!request.on_demand && (!row.due || row.due_at > ToTimestamp(now))) return Refusal::kNotDue;
  return std::nullopt;
}

std::optional<Refusal> JudgeTokenRow(const PlainClaim& row) {
  if (row.token.locked) return Refusal::kLocked;
  if (row.token.trouble != nullptr) return Refusal::kUnreadable;
  if (!row.token.found) return Refusal::kNotFound;
  if (IsDead(row.token.status)) return Refusal::kNeedsReauth;
  if (!row.token.filter_holds) return Refusal::kLeftAlone;
  if (row.token.stored == nullptr) return Refusal::kNoRefreshToken;
  return std::nullopt;
}

// The transaction's parts; all of them fill rows, which are zeroed and live in context.

void LockDemanded(std::span<const ClaimRequest> requests, PlainClaim* rows) {
  int count = static_cast<int>(requests.size());
  int demanded = 0;
  int64_t* ids = static_cast<int64_t*>(palloc(sizeof(int64_t) * count));
  for (const ClaimRequest& request : requests)
    if (request.on_demand) ids[demanded++] = request.schedule_id;
  if (demanded == 0) return;
  Datum values[] = {MakeArray(demanded, INT8OID, [&](int i, bool*) { return Int64GetDatum(ids[i]); })};
  uint64 locked = Execute(&lock_demanded, values, false);
  for (int i = 0; i < count; i++) {
    if (!requests[i].on_demand) continue;
    rows[i].locked = true;
    bool is_null;
    for (uint64 j = 0; j < locked && rows[i].locked; j++)
      if (DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[j], SPI_tuptable->tupdesc, 1, &is_null)) ==
          requests[i].schedule_id)
        rows[i].locked = false;
  }
}

void ReadSchedules(std::span<const ClaimRequest> requests, MemoryContext context, PlainClaim* rows) {
  int count = static_cast<int>(requests.size());
  Datum values[] = {
      MakeArray(count, INT8OID, [&](int i, bool*) { return Int64GetDatum(requests[i].schedule_id); })};
  uint64 found = Execute(&read_schedule, values, false);
  MemoryContext previous = MemoryContextSwitchTo(context);
  for (uint64 i = 0; i < found; i++) {
    bool is_null;
    HeapTuple tuple = SPI_tuptable->vals[i];
    int64 n = DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &is_null));
    ReadScheduleRow(tuple, SPI_tuptable->tupdesc, &rows[n - 1]);
  }
  MemoryContextSwitchTo(previous);
}

// Loads the token rows of one table for the requests that are still to be judged. What belongs to no table is not found.
void LoadTokenRows(int32_t token_table, const int* wanted, int count, MemoryContext context, PlainClaim* rows) {
  TokenTable* table = FindTokenTable(token_table);
  if (table == nullptr) return;
  const char** keys = static_cast<const char**>(palloc(sizeof(char*) * count));
  TokenRow* tokens = static_cast<TokenRow*>(palloc0(sizeof(TokenRow) * count));
  for (int i = 0; i < count; i++) {
    keys[i] = rows[wanted[i]].row_key;
    tokens[i].access_wanted = rows[wanted[i]].token.access_wanted;
  }
  ReadTokenRows(table, keys, count, context, tokens);
  // detach_table sees what has been noted, or nothing is claimed.
  const bool held = HoldTokenTable(token_table);
  for (int i = 0; i < count; i++) {
    rows[wanted[i]].token = tokens[i];
    if (!held) rows[wanted[i]].token.locked = true;
    rows[wanted[i]].refresh_margin = table->refresh_margin;
  }
}

bool Contains(std::span<const int32_t> ids, int32_t id) { return std::find(ids.begin(), ids.end(), id) != ids.end(); }

void LoadAllTokenRows(Micros now, std::span<const ClaimRequest> requests, const ClaimRules& rules,
                      MemoryContext context, PlainClaim* rows) {
  int count = static_cast<int>(requests.size());
  bool* done = static_cast<bool*>(palloc0(sizeof(bool) * count));
  int* wanted = static_cast<int*>(palloc(sizeof(int) * count));
  for (int i = 0; i < count; i++) {
    if (done[i] || JudgeSchedule(now, requests[i], rows[i])) continue;
    int n = 0;
    for (int j = i; j < count; j++) {
      if (done[j] || rows[j].token_table != rows[i].token_table || JudgeSchedule(now, requests[j], rows[j])) continue;
      done[j] = true;
      wanted[n++] = j;
      rows[j].token.access_wanted =
          !requests[j].on_demand && !rows[j].expires && Contains(rules.introspected, rows[j].provider);
    }
    if (!Contains(rules.full, rows[i].token_table))
      LoadTokenRows(rows[i].token_table, wanted, n, context, rows);
    else
      for (int j = 0; j < n; j++) rows[wanted[j]].token.locked = true;
  }
}

// What these rows are is written down, so that they do not come up again.
void PutAway(std::span<const ClaimRequest> requests, const PlainClaim* rows, const int* which, int count) {
  if (count == 0) return;
  auto dead = [&](int i) { return rows[which[i]].token.found && IsDead(rows[which[i]].token.status); };
  Datum values[] = {
      MakeArray(count, INT8OID, [&](int i, bool*) { return Int64GetDatum(requests[which[i]].schedule_id); }),
      MakeArray(count, INT8OID, [&](int i, bool*) { return Int64GetDatum(rows[which[i]].generation); }),
      MakeArray(count, TEXTOID, [&](int i, bool* is_null) {
        return TextOrNullDatum(dead(i) ? kStatusWords[rows[which[i]].token.status] : "", is_null);
      }),
      MakeArray(count, BOOLOID, [&](int i, bool*) {
        return BoolGetDatum(rows[which[i]].token.found && !rows[which[i]].token.filter_holds);
      })};
  Execute(&never_due, values, false);
}

void NoteTroubles(std::span<const ClaimRequest> requests, const PlainClaim* rows, const int* which, int count) {
  int64_t* ids = static_cast<int64_t*>(palloc(sizeof(int64_t) * Max(count, 1)));
  int64_t* generations = static_cast<int64_t*>(palloc(sizeof(int64_t) * Max(count, 1)));
  const char** messages = static_cast<const char**>(palloc(sizeof(char*) * Max(count, 1)));
  Micros* until = static_cast<Micros*>(palloc(sizeof(Micros) * Max(count, 1)));
  for (int i = 0; i < count; i++) {
    ids[i] = requests[which[i]].schedule_id;
    generations[i] = rows[which[i]].generation;
    messages[i] = rows[which[i]].token.trouble;
    until[i] = rows[which[i]].token.trouble_until;
  }
  NoteUnreadable(ids, generations, messages, until, count);
}

// If this commit is lost in a crash the rows are simply still due, so it need not wait for the disk.
void CommitInMemory() {
  set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

// Notes what is about to be asked for, and puts out of the way what never can be, or not as it is.
int64_t WriteJournal(Micros now, std::span<const ClaimRequest> requests, PlainClaim* rows) {
  int count = static_cast<int>(requests.size());
  int64_t* claimed = static_cast<int64_t*>(palloc(sizeof(int64_t) * count));
  int* hopeless = static_cast<int*>(palloc(sizeof(int) * count));
  int* troubled = static_cast<int*>(palloc(sizeof(int) * count));
  int64_t* only_asked = static_cast<int64_t*>(palloc(sizeof(int64_t) * count));
  int claimed_count = 0, only_asked_count = 0, hopeless_count = 0, troubled_count = 0;
  for (int i = 0; i < count; i++) {
    std::optional<Refusal> known = JudgeSchedule(now, requests[i], rows[i]);
    std::optional<Refusal> refusal = known ? known : JudgeTokenRow(rows[i]);
    if (!refusal) {
      rows[i].claimed = true;
      claimed[claimed_count++] = requests[i].schedule_id;
      if (IsOnlyAsked(rows[i])) only_asked[only_asked_count++] = requests[i].schedule_id;
    } else if (!known && *refusal == Refusal::kUnreadable) {
      troubled[troubled_count++] = i;
    } else if ((!known && *refusal != Refusal::kLocked) || (*refusal == Refusal::kNeedsReauth && rows[i].due)) {
      hopeless[hopeless_count++] = i;
    }
  }
  PutAway(requests, rows, hopeless, hopeless_count);
  NoteTroubles(requests, rows, troubled, troubled_count);
  return claimed_count == 0 ? 0 : InsertNote(claimed, claimed_count, only_asked, only_asked_count);
}

}  // namespace

std::optional<Refusal> JudgeClaim(Micros now, const ClaimRequest& request, const PlainClaim& row) {
  std::optional<Refusal> refusal = JudgeSchedule(now, request, row);
  return refusal ? refusal : JudgeTokenRow(row);
}

bool IsOnlyAsked(const PlainClaim& row) { return row.token.access_wanted && row.token.stored_access != nullptr; }

void NoteRefreshOf(int64_t note, int64_t schedule_id) {
  CommitInMemory();
  Datum values[] = {Int64GetDatum(note), Int64GetDatum(schedule_id)};
  Execute(&note_refresh, values, false);
}

int64_t InsertNote(const int64_t* schedule_ids, int count, const int64_t* only_asked, int only_asked_count) {
  CommitInMemory();
  Datum values[] = {MakeArray(count, INT8OID, [&](int i, bool*) { return Int64GetDatum(schedule_ids[i]); }),
                    MakeArray(only_asked_count, INT8OID, [&](int i, bool*) { return Int64GetDatum(only_asked[i]); })};
  Execute(&write_journal, values, false);
  bool is_null;
  return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
}

void NarrowNote(int64_t note, const int64_t* schedule_ids, int count) {
  Datum values[] = {Int64GetDatum(note),
                    MakeArray(count, INT8OID, [&](int i, bool*) { return Int64GetDatum(schedule_ids[i]); })};
  Execute(count > 0 ? &narrow_note : &delete_note, values, false);
}

void NoteUnreadable(const int64_t* schedule_ids, const int64_t* generations, const char* const* messages,
                    const Micros* until, int count) {
  if (count == 0) return;
  Datum values[] = {MakeArray(count, INT8OID, [&](int i, bool*) { return Int64GetDatum(schedule_ids[i]); }),
                    MakeArray(count, INT8OID, [&](int i, bool*) { return Int64GetDatum(generations[i]); }),
                    MakeArray(count, TEXTOID, [&](int i, bool*) { return CStringGetTextDatum(messages[i]); }),
                    MakeArray(count, TIMESTAMPTZOID, [&](int i, bool* is_null) {
                      *is_null = until[i] == 0;
                      return TimestampTzGetDatum(ToTimestamp(until[i]));
                    })};
  Execute(&mark_unreadable, values, false);
}

std::optional<int64_t> ReadAndNoteClaims(Micros now, std::span<const ClaimRequest> requests, const ClaimRules& rules,
                                         MemoryContext context, PlainClaim* rows) {
  LockDemanded(requests, rows);
  ReadSchedules(requests, context, rows);
  LoadAllTokenRows(now, requests, rules, context, rows);
  if (ProvidersChangedSince(rules.providers_version)) return std::nullopt;
  return WriteJournal(now, requests, rows);
}

}  // namespace token_refresh
