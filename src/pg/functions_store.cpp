// SQL function store_credential: seals what a token endpoint answered and writes it,
// with the caller's privileges, under provider, subject and label.
#include <string>

#include "core/sealed_box.h"
#include "core/token_response.h"
#include "pg/boundary.h"
#include "pg/catalog.h"
#include "pg/keys.h"
#include "pg/owner_scope.h"
#include "pg/provider_cache.h"

extern "C" {
#include "mb/pg_wchar.h"

PG_FUNCTION_INFO_V1(token_refresh_store_credential);
}

namespace token_refresh {

namespace {

constexpr const char* kFind =
    "SELECT id FROM token_refresh.credential"
    " WHERE provider OPERATOR(pg_catalog.=) $1 AND subject OPERATOR(pg_catalog.=) $2"
    " AND label OPERATOR(pg_catalog.=) $3 FOR UPDATE";
// A refresh token that is known to be dead is not kept beside new tokens.
constexpr const char* kUpdate =
    "UPDATE token_refresh.credential SET access_token = $5,"
    " refresh_token = CASE WHEN $6 IS NOT NULL THEN $6"
    " WHEN status OPERATOR(pg_catalog.=) 'needs_reauth' THEN NULL ELSE refresh_token END,"
    " token_type = $7, scope = COALESCE($8, scope), issued_at = $9, expires_at = $10,"
    " refresh_expires_at = $11, status = 'connected', last_error = NULL, updated_at = $9"
    " WHERE id OPERATOR(pg_catalog.=) $4";
constexpr const char* kInsert =
    "INSERT INTO token_refresh.credential (id, provider, subject, label, access_token, refresh_token, token_type,"
    " scope, issued_at, expires_at, refresh_expires_at)"
    " VALUES ($4, $1, $2, $3, $5, $6, $7, $8, $9, $10, $11)"
    " ON CONFLICT (provider, subject, label) DO NOTHING";
constexpr const char* kAudit =
    "INSERT INTO token_refresh.audit_event (event, provider, token_table, row_key, subject, label)"
    " VALUES ('credential_stored', $1, 1, $4::text, $2, $3)";

enum StatementKind { kFindStatement, kUpdateStatement, kInsertStatement, kAuditStatement, kStatements };
enum Parameter { kProviderParam, kSubjectParam, kLabelParam, kIdParam, kAccessParam, kRefreshParam, kTypeParam,
                 kScopeParam, kIssuedParam, kExpiresParam, kRefreshExpiresParam, kParameters };

// The parameters of all statements; the same numbers mean the same thing in each.
struct Row {
  Datum values[kParameters];
  char nulls[kParameters + 1];
};

uint64 Execute(StatementKind kind, const Row& row) {
  static SPIPlanPtr plans[kStatements];
  static const char* const sql[kStatements] = {kFind, kUpdate, kInsert, kAudit};
  static const int counts[kStatements] = {3, kParameters, kParameters, 4};
  Oid types[kParameters] = {TEXTOID, TEXTOID, TEXTOID,        INT8OID,        BYTEAOID,      BYTEAOID,
                            TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID};
  if (plans[kind] == nullptr) {
    SPIPlanPtr plan = SPI_prepare(sql[kind], counts[kind], types);
    if (plan == nullptr) elog(ERROR, "token_refresh: SPI_prepare failed for credential");
    SPI_keepplan(plan);
    plans[kind] = plan;
  }
  if (SPI_execute_plan(plans[kind], const_cast<Datum*>(row.values), row.nulls, false, 0) < 0)
    elog(ERROR, "token_refresh: writing credential failed");
  return SPI_processed;
}

void SetTime(Row* row, Parameter parameter, const std::optional<Micros>& after, Micros now) {
  row->nulls[parameter] = after ? ' ' : 'n';
  row->values[parameter] = TimestampTzGetDatum(after ? ToTimestamp(now + *after) : 0);
}

// Memory for what C++ fills in: every token and word of the answer is shorter than the answer.
struct Buffers {
  bytea* access_token;
  bytea* refresh_token;
  text* token_type;
  text* scope;
};

Buffers AllocateBuffers(size_t answer_size) {
  Buffers buffers;
  size_t sealed = VARHDRSZ + SealedSize(answer_size);
  buffers.access_token = static_cast<bytea*>(palloc(sealed));
  buffers.refresh_token = static_cast<bytea*>(palloc(sealed));
  buffers.token_type = static_cast<text*>(palloc(VARHDRSZ + answer_size + 16));
  buffers.scope = static_cast<text*>(palloc(VARHDRSZ + answer_size + 16));
  return buffers;
}

void CopyWord(text* to, const std::string& word) {
  memcpy(VARDATA(to), word.data(), word.size());
  SET_VARSIZE(to, VARHDRSZ + word.size());
}

Status SealColumn(const KeyRing& ring, const char* row_key, const char* column, const Secret& token, bytea* to) {
  Status sealed = SealInto(ring, SealedPlace{kCredentialPlace, row_key, column}, token.view(), VARDATA(to));
  SET_VARSIZE(to, VARHDRSZ + SealedSize(token.size()));
  return sealed;
}

// The C++ phase: parses the answer and fills row and buffers.
Status ParseAndSeal(const char* answer, const char* row_key, const Buffers& buffers, Row* row) {
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return ring.error();
  Micros now = FromTimestamp(GetCurrentTimestamp());
  Result<TokenSet> tokens = ParseStoredTokens(answer, now);
  if (!tokens.ok()) return tokens.error();
  Status sealed = SealColumn(**ring, row_key, "access_token", tokens->access_token, buffers.access_token);
  if (!sealed.ok()) return sealed;
  row->nulls[kRefreshParam] = tokens->refresh_token.empty() ? 'n' : ' ';
  if (!tokens->refresh_token.empty()) {
    sealed = SealColumn(**ring, row_key, "refresh_token", tokens->refresh_token, buffers.refresh_token);
    if (!sealed.ok()) return sealed;
  }
  CopyWord(buffers.token_type, tokens->token_type);
  row->nulls[kScopeParam] = tokens->scope.empty() ? 'n' : ' ';
  CopyWord(buffers.scope, tokens->scope);
  row->values[kIssuedParam] = TimestampTzGetDatum(ToTimestamp(now));
  SetTime(row, kExpiresParam, tokens->expires_in, now);
  SetTime(row, kRefreshExpiresParam, tokens->refresh_expires_in, now);
  return Ok();
}

void FillTokens(Jsonb* token_response, int64_t id, Row* row) {
  char row_key[24];
  snprintf(row_key, sizeof(row_key), INT64_FORMAT, id);
  char* answer = JsonbToCString(nullptr, &token_response->root, VARSIZE(token_response));
  Buffers buffers = AllocateBuffers(strlen(answer));
  PlainError error;
  bool ok = CallCpp(error, [&] { return ParseAndSeal(answer, row_key, buffers, row); });
  explicit_bzero(answer, strlen(answer));
  if (!ok) RaisePlainError(error);
  row->values[kIdParam] = Int64GetDatum(id);
  row->values[kAccessParam] = PointerGetDatum(buffers.access_token);
  row->values[kRefreshParam] = PointerGetDatum(buffers.refresh_token);
  row->values[kTypeParam] = PointerGetDatum(buffers.token_type);
  row->values[kScopeParam] = PointerGetDatum(buffers.scope);
}

// Updates the row that is there, or inserts one. The ciphertext is bound to the row's id, so the id
// comes first.
int64_t Write(Jsonb* token_response, Row* row) {
  for (int attempt = 0; attempt < 3; attempt++) {
    if (Execute(kFindStatement, *row) > 0) {
      bool is_null;
      int64_t id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
      FillTokens(token_response, id, row);
      if (Execute(kUpdateStatement, *row) > 0) return id;
      continue;
    }
    int64_t id = nextval_internal(ExtensionRelation("credential_id_seq"), false);
    FillTokens(token_response, id, row);
    if (Execute(kInsertStatement, *row) > 0) return id;
  }
  ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                  errmsg("a credential for this provider, subject and label exists that you may not change"),
                  errhint("Row-level security on token_refresh.credential hides it from the current user.")));
  pg_unreachable();
}

// As the constraints of the table, whose error would quote the row instead of naming the argument.
void CheckLength(const text* value, const char* name, int least, int most) {
  const int length = pg_mbstrlen_with_len(VARDATA_ANY(value), static_cast<int>(VARSIZE_ANY_EXHDR(value)));
  if (length < least || length > most)
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("argument \"%s\" must be %d to %d characters long", name, least, most)));
}

void Audit(const Row& row) {
  OwnerScope scope;
  EnterOwnerScope(&scope);
  Execute(kAuditStatement, row);
  LeaveOwnerScope(&scope);
}

}  // namespace

}  // namespace token_refresh

extern "C" Datum token_refresh_store_credential(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  static const char* const names[] = {"provider", "subject", "token_response", "label"};
  for (int i = 0; i < 4; i++)
    if (PG_ARGISNULL(i))
      ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("argument \"%s\" must not be null", names[i])));
  char* provider = text_to_cstring(PG_GETARG_TEXT_PP(0));
  if (FindProvider(provider) == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("unknown provider \"%s\"", provider),
                    errhint("Create it with token_refresh.create_provider().")));
  CheckLength(PG_GETARG_TEXT_PP(1), "subject", 1, 1000);
  CheckLength(PG_GETARG_TEXT_PP(3), "label", 0, 200);
  Row row = {};
  memset(row.nulls, ' ', kParameters);
  row.values[kProviderParam] = PG_GETARG_DATUM(0);
  row.values[kSubjectParam] = PG_GETARG_DATUM(1);
  row.values[kLabelParam] = PG_GETARG_DATUM(3);
  Jsonb* token_response = PG_GETARG_JSONB_P(2);
  if (SPI_connect() != SPI_OK_CONNECT) elog(ERROR, "token_refresh: SPI_connect failed");
  int64_t id = Write(token_response, &row);
  Audit(row);
  SPI_finish();
  PG_RETURN_INT64(id);
}
