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

// A condition on one row: no aggregate, no window, no set.
void RequireRowCondition(const TokenTable& table) {
  if (table.filter == nullptr) return;
  const char* sql = psprintf("SELECT FROM %s AS %s WHERE (%s\n) LIMIT 0", table.quoted_name, table.alias, table.filter);
  if (SPI_execute(sql, true, 0) != SPI_OK_SELECT) elog(ERROR, "token_refresh: trying the filter failed");
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
    samples[count++].row_key = SPI_getvalue(tuple, SPI_tuptable->tupdesc, 1);
  }
  return count;
}

// Reads one row as a claim would. False: it has gone meanwhile.
bool Load(TokenTableStatements* statements, Sample* sample) {
  Datum values[] = {MakeArray(1, INT4OID, [](int, bool*) { return Int32GetDatum(0); }),
                    MakeArray(1, TEXTOID, [&](int, bool*) { return CStringGetTextDatum(sample->row_key); })};
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
  TokenTable* table = GetTokenTable(token_table);
  if (table->trouble != nullptr) {
    AddProblem(problems, "%s", table->trouble);
    return;
  }
  TokenTableStatements* statements = StatementsFor(token_table);
  Sample samples[kSamples] = {};
  TableError error = {};
  volatile int count = 0;
  if (!TryOnTable(*table, &error, [&] { count = ReadKeys(statements, samples); })) {
    AddProblem(problems, table->filter != nullptr ? "option \"filter\": %s" : "reading the table: %s", error.message);
    return;
  }
  TryCipher(statements, samples, count, problems);
}

}  // namespace token_refresh
