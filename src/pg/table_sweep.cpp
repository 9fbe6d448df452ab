#include "pg/table_sweep.h"

#include <cstdlib>

#include "pg/schedule_moves.h"
#include "pg/spi_arrays.h"
#include "pg/table_scan.h"
#include "pg/table_scope.h"

extern "C" {
#include "utils/fmgrprotos.h"
}

namespace token_refresh {

namespace {

// What the schedule knows of the rows of a batch, as of the snapshot that they were read with. Unplanned is what names
// a provider that there is none, and what could not be read. While the provider is yet to be asked when refreshed tokens
// expire, the row holds an assumption.
Statement read_known = {
    "SELECT k.n, s.expires_at, s.left_alone, s.provider = 0 OR s.status = 'error' AND s.due_at IS NULL, EXISTS"
    " (SELECT FROM token_refresh.parked_result p WHERE p.schedule_id = s.id),"
    " s.generation, s.status IN ('needs_reauth', 'disconnected'),"
    " s.status = 'disconnected', CASE WHEN s.status = 'needs_reauth' THEN s.refused_token END,"
    " s.expires_at IS NULL AND s.due_at IS NOT NULL AND s.last_refreshed_at IS NOT NULL AND EXISTS"
    " (SELECT FROM token_refresh.provider p WHERE p.id = s.provider"
    "  AND p.effective_options ->> 'expiry_source' = 'introspection')"
    " FROM unnest($2, $3) AS k(n, key) JOIN token_refresh.schedule s ON s.token_table = $1 AND s.row_key = k.key",
    3,
    {INT4OID, INT4ARRAYOID, TEXTARRAYOID},
    nullptr};

// Those that can be planned now: somebody else is at the others, and the sweep must not wait for him.
Statement lock_free = {
    "SELECT k.n FROM unnest($2, $3) AS k(n, key) JOIN token_refresh.schedule s ON s.token_table = $1"
    " AND s.row_key = k.key ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED",
    3,
    {INT4OID, INT4ARRAYOID, TEXTARRAYOID},
    nullptr};

// What is parked says itself what is wrong.
Statement note_unreadable = {
    "INSERT INTO token_refresh.schedule AS s (token_table, row_key, provider, status, failure, message)"
    " VALUES ($1, $2, 0, 'error', 'client_config', $3)"
    " ON CONFLICT (token_table, row_key) DO UPDATE SET status = 'error', failure = 'client_config',"
    " message = excluded.message, due_at = NULL"
    " WHERE s.status NOT IN ('needs_reauth', 'disconnected')"
    " AND (s.message IS DISTINCT FROM excluded.message OR s.due_at IS NOT NULL)"
    " AND NOT EXISTS (SELECT FROM token_refresh.parked_result p WHERE p.schedule_id = s.id)",
    3,
    {INT4OID, TEXTOID, TEXTOID},
    nullptr};

// Whether anything may be taken over by a row that is new.
Statement any_left_behind = {
    "SELECT WHERE EXISTS (SELECT FROM token_refresh.schedule s WHERE s.token_table = $1 AND s.row_key IS NULL)"
    " OR EXISTS (SELECT FROM token_refresh.parked_result p WHERE p.token_table = $1)",
    1,
    {INT4OID},
    nullptr};

// What of a batch is to be planned. Columns with seconds only are as exact as it gets.
constexpr int64_t kSameExpiry = USECS_PER_SEC;

bool GetTime(HeapTuple tuple, int column, TimestampTz* time) {
  bool is_null;
  Datum value = SPI_getbinval(tuple, SPI_tuptable->tupdesc, column, &is_null);
  *time = is_null ? 0 : DatumGetTimestampTz(value);
  return !is_null;
}

// The rows of one batch, and what of them is to be planned.
struct Batch {
  const TokenTable* table;
  ScannedRow* rows;
  KnownSchedule* known;
  bytea** refused;  // of dead grants: the digest of the refresh token that the provider has refused, if it is known
  Unchanged* unchanged;  // of rows that have taken something over
  bool* news;
  int count;
};

// Returns the last key.
const char* ScanBatch(TokenTableStatements* statements, const char* cursor, bool one_by_one, Batch* batch) {
  ScannedRows scanned;
  ScanRows(statements, cursor, one_by_one, &scanned);
  batch->table = statements->table;
  batch->rows = scanned.rows;
  batch->count = scanned.count;
  batch->known = static_cast<KnownSchedule*>(palloc0(sizeof(KnownSchedule) * (scanned.count + 1)));
  batch->refused = static_cast<bytea**>(palloc0(sizeof(bytea*) * (scanned.count + 1)));
  batch->unchanged = static_cast<Unchanged*>(palloc0(sizeof(Unchanged) * (scanned.count + 1)));
  batch->news = static_cast<bool*>(palloc0(sizeof(bool) * (scanned.count + 1)));
  return scanned.last;
}

// Whether a row that can be read says anything else than the schedule.
bool Differs(const PlannedRow& row, const KnownSchedule& known, HeapTuple tuple) {
  TupleDesc desc = SPI_tuptable->tupdesc;
  bool is_null;
  const bool assumed = DatumGetBool(SPI_getbinval(tuple, desc, 10, &is_null));
  const bool same_expiry =
      assumed || (known.expires == row.expires &&
                  (!row.expires || std::abs(known.expires_at / 2 - row.expires_at / 2) < kSameExpiry / 2));
  const bool left_alone = DatumGetBool(SPI_getbinval(tuple, desc, 3, &is_null));
  const bool unplanned = DatumGetBool(SPI_getbinval(tuple, desc, 4, &is_null));
  const bool parked = DatumGetBool(SPI_getbinval(tuple, desc, 5, &is_null));
  // Only the application says that it is over, or that it is not.
  const bool disconnected = DatumGetBool(SPI_getbinval(tuple, desc, 8, &is_null));
  return !(parked || same_expiry) || left_alone != row.left_alone || unplanned ||
         disconnected != (row.status == kDisconnected);
}

// What is news is what the schedule does not know, or knows otherwise.
void FindNews(Batch* batch) {
  Datum values[] = {Int32GetDatum(batch->table->id),
                    MakeArray(batch->count, INT4OID, [](int i, bool*) { return Int32GetDatum(i); }),
                    MakeArray(batch->count, TEXTOID,
                              [&](int i, bool*) { return CStringGetTextDatum(batch->rows[i].row.row_key); })};
  for (int i = 0; i < batch->count; i++) batch->news[i] = !batch->rows[i].locked;
  uint64 found = Execute(&read_known, values, true);
  for (uint64 i = 0; i < found; i++) {
    HeapTuple tuple = SPI_tuptable->vals[i];
    bool is_null;
    const int n = ResultNumber(i, batch->count);
    const ScannedRow& scanned = batch->rows[n];
    KnownSchedule* known = &batch->known[n];
    known->exists = true;
    known->expires = GetTime(tuple, 2, &known->expires_at);
    known->generation = DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 6, &is_null));
    known->dead = DatumGetBool(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 7, &is_null));
    Datum refused = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 9, &is_null);
    batch->refused[n] = is_null ? nullptr : DatumGetByteaPCopy(refused);
    if (batch->news[n] && scanned.trouble == nullptr) batch->news[n] = Differs(scanned.row, *known, tuple);
  }
}

bool IsInFlight(std::span<const InFlightToken> in_flight, const bytea* digest) {
  for (const InFlightToken& token : in_flight)
    if (memcmp(token.digest, VARDATA_ANY(digest), sizeof(token.digest)) == 0) return true;
  return false;
}

// Sets tokens[i] for those of which, as they stand in their rows.
void ReadDigests(TokenTableStatements* statements, const Batch& batch, const int* which, int count,
                 MemoryContext context, TokenDigests* tokens) {
  Datum values[] = {
      MakeArray(count, INT4OID, [&](int i, bool*) { return Int32GetDatum(which[i]); }),
      MakeArray(count, TEXTOID, [&](int i, bool*) { return CStringGetTextDatum(batch.rows[which[i]].row.row_key); })};
  uint64 found = Execute(&statements->stored, values, true);
  MemoryContext previous = MemoryContextSwitchTo(context);
  for (uint64 i = 0; i < found; i++) {
    HeapTuple tuple = SPI_tuptable->vals[i];
    TupleDesc desc = SPI_tuptable->tupdesc;
    bool no_refresh, no_access;
    Datum refresh = SPI_getbinval(tuple, desc, 2, &no_refresh), access = SPI_getbinval(tuple, desc, 3, &no_access);
    tokens[ResultNumber(i, batch.count)] = {DigestOf(refresh, no_refresh), DigestOf(access, no_access)};
  }
  MemoryContextSwitchTo(previous);
}

TokenDigests* ReadTokens(TokenTableStatements* statements, const Batch& batch, const int* which, int count) {
  TokenDigests* tokens = static_cast<TokenDigests*>(palloc0(sizeof(TokenDigests) * (batch.count + 1)));
  MemoryContext context = CurrentMemoryContext;
  TableError error = {};
  auto read = [&] { ReadDigests(statements, batch, which, count, context, tokens); };
  if (batch.table->built_in)
    read();
  else if (!TryOnTable(*batch.table, &error, read))
    ereport(ERROR, (errcode(error.sqlstate), errmsg("%s", error.message)));
  return tokens;
}

// A row that is new to the schedule. False: its token is in use by another one, of which it is not known yet that it is
// gone, so the row has to wait.
bool Welcome(Batch* batch, int i, const TokenDigests& tokens, std::span<const InFlightToken> in_flight) {
  if (tokens.refresh_token == nullptr) return true;
  PlannedRow* row = &batch->rows[i].row;
  const Heritage heritage = TakeOver(*row, tokens);
  row->schedule_id = heritage.schedule_id;
  if (!heritage.scheduled) return heritage.schedule_id != 0 || !(heritage.elsewhere || IsInFlight(in_flight, tokens.refresh_token));
  batch->known[i] = heritage.known;
  batch->unchanged[i] = UnchangedAfter(heritage, *batch->table);
  batch->known[i].arrived = &batch->unchanged[i];
  return true;
}

// Returns whether rows were left out.
bool WelcomeNew(TokenTableStatements* statements, Batch* batch, std::span<const InFlightToken> in_flight) {
  int* fresh = static_cast<int*>(palloc(sizeof(int) * (batch->count + 1)));
  int count = 0;
  for (int i = 0; i < batch->count; i++)
    if (batch->news[i] && !batch->known[i].exists && batch->rows[i].trouble == nullptr) fresh[count++] = i;
  Datum of_table[] = {Int32GetDatum(batch->table->id)};
  if (count == 0 || (in_flight.empty() && Execute(&any_left_behind, of_table, true) == 0)) return false;
  TokenDigests* tokens = ReadTokens(statements, *batch, fresh, count);
  bool left_out = false;
  for (int i = 0; i < count; i++) {
    batch->news[fresh[i]] = Welcome(batch, fresh[i], tokens[fresh[i]], in_flight);
    left_out = left_out || !batch->news[fresh[i]];
  }
  return left_out;
}

// A dead grant of which no trigger has told that it has got another refresh token, and with it another life.
void FindRevived(TokenTableStatements* statements, Batch* batch) {
  int* dead = static_cast<int*>(palloc(sizeof(int) * (batch->count + 1)));
  int count = 0;
  for (int i = 0; i < batch->count; i++)
    if (!batch->news[i] && batch->refused[i] != nullptr) dead[count++] = i;
  if (count == 0) return;
  TokenDigests* tokens = ReadTokens(statements, *batch, dead, count);
  for (int n = 0; n < count; n++) {
    const int i = dead[n];
    bytea* now = tokens[i].refresh_token;
    if (now == nullptr ||
        DatumGetBool(DirectFunctionCall2(byteaeq, PointerGetDatum(now), PointerGetDatum(batch->refused[i]))))
      continue;
    batch->news[i] = true;
    if (batch->rows[i].row.status == kNeedsReauth) batch->rows[i].row.status = kConnected;
  }
}

// Locks the schedule's rows of the news, and leaves out what somebody else has locked. Returns how many.
int LeaveOutLocked(Batch* batch) {
  int* news = static_cast<int*>(palloc(sizeof(int) * (batch->count + 1)));
  int count = 0;
  for (int i = 0; i < batch->count; i++)
    if (batch->news[i] && batch->known[i].exists) news[count++] = i;
  if (count == 0) return 0;
  Datum values[] = {Int32GetDatum(batch->table->id),
                    MakeArray(count, INT4OID, [&](int i, bool*) { return Int32GetDatum(news[i]); }),
                    MakeArray(count, TEXTOID,
                              [&](int i, bool*) { return CStringGetTextDatum(batch->rows[news[i]].row.row_key); })};
  for (int i = 0; i < count; i++) batch->news[news[i]] = false;
  uint64 locked = Execute(&lock_free, values, false);
  for (uint64 i = 0; i < locked; i++) batch->news[ResultNumber(i, batch->count)] = true;
  return count - static_cast<int>(locked);
}

// A row that cannot be read is not due before it can.
void PlanRow(const Batch& batch, int i) {
  const ScannedRow& scanned = batch.rows[i];
  if (scanned.trouble == nullptr) return PlanReadRow(scanned.row, batch.known[i]);
  Datum values[] = {Int32GetDatum(batch.table->id), CStringGetTextDatum(scanned.row.row_key),
                    CStringGetTextDatum(scanned.trouble)};
  Execute(&note_unreadable, values, false);
}

// Plans a row in a subtransaction. Returns the SQLSTATE of what went wrong, when nothing of it is left; 0: nothing.
int TryPlan(const Batch& batch, int i) {
  volatile int sqlstate = 0;
  MemoryContext context = CurrentMemoryContext;
  ResourceOwner owner = CurrentResourceOwner;
  BeginInternalSubTransaction(nullptr);
  MemoryContextSwitchTo(context);
  PG_TRY();
  {
    PlanRow(batch, i);
    ReleaseCurrentSubTransaction();
  }
  PG_CATCH();
  {
    sqlstate = geterrcode();
    MemoryContextSwitchTo(context);
    FlushErrorState();
    RollbackAndReleaseCurrentSubTransaction();
  }
  PG_END_TRY();
  MemoryContextSwitchTo(context);
  CurrentResourceOwner = owner;
  return sqlstate;
}

void PlanNews(const Batch& batch, bool one_by_one, SweptBatch* swept) {
  for (int i = 0; i < batch.count; i++) {
    if (!batch.news[i]) continue;
    if (!one_by_one) {
      PlanRow(batch, i);
      continue;
    }
    const int sqlstate = TryPlan(batch, i);
    if (sqlstate == ERRCODE_LOCK_NOT_AVAILABLE)
      swept->locked = true;
    else if (sqlstate != 0)
      swept->failed_sqlstate = sqlstate;
  }
}

}  // namespace

void ReconcileBatch(TokenTableStatements* statements, const char* cursor, bool one_by_one,
                    std::span<const InFlightToken> in_flight, SweptBatch* swept) {
  Batch batch = {};
  *swept = {};
  const char* last = ScanBatch(statements, cursor, one_by_one, &batch);
  // From now on detach_table waits for this transaction.
  swept->detached = !HoldTokenTable(batch.table->id);
  if (swept->detached) return;
  swept->last = last;
  if (batch.count == 0) return;
  for (int i = 0; i < batch.count; i++) swept->locked = swept->locked || batch.rows[i].locked;
  FindNews(&batch);
  swept->locked = WelcomeNew(statements, &batch, in_flight) || swept->locked;
  FindRevived(statements, &batch);
  swept->locked = LeaveOutLocked(&batch) > 0 || swept->locked;
  PlanNews(batch, one_by_one, swept);
}

}  // namespace token_refresh
