// The part of attach_table that tries the table out: reads it as its owner, evaluates the
// filter, and opens what is stored.
#include "core/token_cipher.h"
#include "pg/attach_checks.h"
#include "pg/boundary.h"
#include "pg/keys.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"
#include "pg/table_scope.h"

namespace token_refresh {

namespace {

// Rows that are tried. One that opens is enough: single rows may well hold garbage.
constexpr int kSamples = 20;

struct Sample {
  char* row_key;
  std::string_view stored;
};

// As token_status shows it; null: none.
const char* TroubleOf(int32_t token_table) {
  Oid types[] = {INT4OID};
  Datum values[] = {Int32GetDatum(token_table)};
  const char* sql = "SELECT trouble FROM token_refresh._token_table_trouble WHERE id = $1";
  if (SPI_execute_with_args(sql, 1, types, values, nullptr, false, 1) != SPI_OK_SELECT || SPI_processed != 1)
    elog(ERROR, "token_refresh: looking at the table failed");
  return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

// A condition on one row: no aggregate, no window, no set.
void RequireRowCondition(const TokenTable& table) {
  if (table.filter == nullptr) return;
  const char* sql = psprintf("SELECT FROM %s AS %s WHERE (%s\n) LIMIT 0", table.quoted_name, table.alias, table.filter);
  if (SPI_execute(sql, true, 0) != SPI_OK_SELECT) elog(ERROR, "token_refresh: trying the filter failed");
}

// An expiry in milliseconds would be some fifty thousand years ahead, and its row never due.
void RequireSeconds(const TokenTable& table) {
  const MappedColumn& expiry = table.columns[kColumnExpiresAt];
  if (expiry.kind != ColumnKind::kEpoch) return;
  const char* year_2200 = "7258118400";
  const char* sql = psprintf("SELECT FROM (SELECT %s AS at FROM %s AS %s LIMIT %d) AS _s WHERE _s.at > %s LIMIT 1",
                             expiry.reference, table.quoted_name, table.alias, kSamples, year_2200);
  if (SPI_execute(sql, true, 0) != SPI_OK_SELECT) elog(ERROR, "token_refresh: looking at the expiries failed");
  if (SPI_processed > 0)
    ereport(ERROR, (errcode(ERRCODE_DATETIME_FIELD_OVERFLOW),
                    errmsg("column %s looks like milliseconds; it must hold seconds since 1970", expiry.quoted)));
}

// The keys of rows that have a refresh token.
int ReadKeys(TokenTableStatements* statements, Sample* samples) {
  RequireRowCondition(*statements->table);
  uint64 rows = Execute(&statements->scan_first, nullptr, true);
  int count = 0;
  for (uint64 i = 0; i < rows && count < kSamples; i++) {
    HeapTuple tuple = SPI_tuptable->vals[i];
    bool is_null;
    if (!DatumGetBool(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 5, &is_null))) continue;
    char* row_key = SPI_getvalue(tuple, SPI_tuptable->tupdesc, 1);
    if (row_key != nullptr) samples[count++].row_key = row_key;
  }
  return count;
}

// Reads one row as a claim would. False: it has gone meanwhile.
bool Load(TokenTableStatements* statements, Sample* sample) {
  Datum values[] = {MakeArray(1, INT4OID, [](int, bool*) { return Int32GetDatum(0); }),
                    MakeArray(1, TEXTOID, [&](int, bool*) { return CStringGetTextDatum(sample->row_key); }),
                    MakeArray(1, BOOLOID, [](int, bool*) { return BoolGetDatum(false); })};
  if (Execute(&statements->load, values, true) == 0) return false;
  bool is_null;
  Datum stored = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 4, &is_null);
  if (is_null) return false;
  struct varlena* bytes = PG_DETOAST_DATUM_COPY(stored);
  sample->stored = {VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes)};
  return true;
}

bool Opens(const TokenTable& table, const Sample& sample, PlainError* error) {
  return CallCpp(*error, [&]() -> Status {
    Result<const KeyRing*> ring = LoadKeyRing();
    if (!ring.ok()) return ring.error();
    TokenCipher cipher{table.cipher, table.place, table.cipher_key != nullptr ? table.cipher_key : ""};
    Result<Secret> opened = OpenStoredToken(**ring, cipher, sample.row_key, "refresh_token", sample.stored);
    return opened.ok() ? Ok() : Status(opened.error());
  });
}

// What the owner's own functions say may hold a token, so it is not repeated.
void TryCipher(TokenTableStatements* statements, Sample* samples, int count, Problems* problems) {
  const TokenTable& table = *statements->table;
  PlainError plain = {};
  TableError error = {};
  const char* reason = nullptr;
  for (int i = 0; i < count; i++) {
    volatile bool there = false;
    if (!TryOnTable(table, &error, [&] { there = Load(statements, &samples[i]); }))
      reason = psprintf("the decrypt function fails with SQLSTATE %s", unpack_sql_state(error.sqlstate));
    else if (!there || Opens(table, samples[i], &plain))
      return;
    else
      reason = plain.message;
  }
  if (reason != nullptr)
    AddProblem(problems, "option \"cipher\": none of the first %d refresh tokens opens: %s", count, reason);
}

}  // namespace

void TryTable(int32_t token_table, Problems* problems) {
  const char* trouble = TroubleOf(token_table);
  if (trouble != nullptr) return AddProblem(problems, "%s", trouble);
  TokenTable* table = GetTokenTable(token_table);
  if (table->trouble != nullptr) return AddProblem(problems, "%s", table->trouble);
  TokenTableStatements* statements = StatementsFor(token_table);
  Sample samples[kSamples] = {};
  TableError error = {};
  volatile int count = 0;
  if (!TryOnTable(*table, &error, [&] { RequireSeconds(*table); }))
    AddProblem(problems, "option \"expires_at_column\": %s", error.message);
  if (!TryOnTable(*table, &error, [&] { count = ReadKeys(statements, samples); })) {
    AddProblem(problems, table->filter != nullptr ? "option \"filter\": %s" : "reading the table: %s", error.message);
    return;
  }
  TryCipher(statements, samples, count, problems);
}

}  // namespace token_refresh
