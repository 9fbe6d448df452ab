#include "pg/credential_write.h"

#include <algorithm>

#include "core/sealed_box.h"
#include "pg/boundary.h"
#include "pg/catalog.h"
#include "pg/keys.h"
#include "pg/owner_scope.h"

namespace token_refresh {

namespace {

constexpr const char* kFind =
    "SELECT id, $17 OPERATOR(pg_catalog.<) issued_at OR ($17 IS NOT NULL AND status OPERATOR(pg_catalog.=) 'disconnected')"
    " FROM token_refresh.credential"
    " WHERE provider OPERATOR(pg_catalog.=) $1 AND subject OPERATOR(pg_catalog.=) $2"
    " AND label OPERATOR(pg_catalog.=) $3 FOR UPDATE";
// A refresh token that is known to be dead is not kept beside new tokens; nor is that of another client, or anything of
// another grant. One that is kept keeps its client.
constexpr const char* kUpdate =
    "UPDATE token_refresh.credential SET access_token = $5,"
    " refresh_token = CASE WHEN $6 IS NOT NULL THEN $6"
    " WHEN $15 OR status OPERATOR(pg_catalog.=) 'needs_reauth'"
    " OR $13 OPERATOR(pg_catalog.<>) COALESCE(client_id, '') THEN NULL ELSE refresh_token END,"
    " token_type = $7, scope = CASE WHEN $15 THEN $8 ELSE COALESCE($8, scope) END, issued_at = $9, expires_at = $10,"
    " refresh_expires_at = $11, captured = CASE WHEN $15 THEN $12::pg_catalog.jsonb"
    " ELSE COALESCE(captured OPERATOR(pg_catalog.||) $12::pg_catalog.jsonb, $12::pg_catalog.jsonb, captured) END,"
    " status = 'connected',"
    " last_error = NULL, updated_at = $9,"
    " client_id = CASE WHEN $13 IS NULL AND $6 IS NULL AND NOT $15 THEN client_id ELSE $13 END,"
    " client_secret = CASE WHEN $13 IS NULL AND $6 IS NULL AND NOT $15 THEN client_secret ELSE $14 END"
    " WHERE id OPERATOR(pg_catalog.=) $4";
constexpr const char* kInsert =
    "INSERT INTO token_refresh.credential (id, provider, subject, label, access_token, refresh_token, token_type,"
    " scope, issued_at, expires_at, refresh_expires_at, captured, client_id, client_secret)"
    " VALUES ($4, $1, $2, $3, $5, $6, $7, $8, $9, $10, $11, $12::pg_catalog.jsonb, $13, $14)"
    " ON CONFLICT (provider, subject, label) DO NOTHING";
constexpr const char* kAudit =
    "INSERT INTO token_refresh.audit_event (event, provider, token_table, row_key, subject, label, actor)"
    " VALUES ('credential_stored', $1, 1, $4::text, $2, $3, COALESCE($16, session_user))";

enum StatementKind { kFindStatement, kUpdateStatement, kInsertStatement, kAuditStatement, kStatements };
enum Parameter {
  kProviderParam,
  kSubjectParam,
  kLabelParam,
  kIdParam,
  kAccessParam,
  kRefreshParam,
  kTypeParam,
  kScopeParam,
  kIssuedParam,
  kExpiresParam,
  kRefreshExpiresParam,
  kCapturedParam,
  kClientIdParam,
  kClientSecretParam,
  kNewGrantParam,
  kActorParam,
  kAskedParam,
  kParameters
};

// The parameters of all statements; the same numbers mean the same thing in each.
struct Row {
  Datum values[kParameters];
  char nulls[kParameters + 1];
};

uint64 Execute(StatementKind kind, const Row& row) {
  static SPIPlanPtr plans[kStatements];
  static const char* const sql[kStatements] = {kFind, kUpdate, kInsert, kAudit};
  static const int counts[kStatements] = {kParameters, kActorParam, kActorParam, kAskedParam};
  Oid types[kParameters] = {TEXTOID, TEXTOID,        TEXTOID,        INT8OID,        BYTEAOID, BYTEAOID, TEXTOID,
                            TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID,  TEXTOID,  BYTEAOID,
                            BOOLOID, TEXTOID,        TIMESTAMPTZOID};
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

void Set(Row* row, Parameter parameter, bool given, Datum value) {
  row->values[parameter] = value;
  row->nulls[parameter] = given ? ' ' : 'n';
}

void FillTokens(int64_t id, SealForRow seal, void* source, Row* row) {
  char row_key[24];
  snprintf(row_key, sizeof(row_key), INT64_FORMAT, id);
  CredentialColumns sealed = {};
  seal(source, row_key, &sealed);
  Set(row, kIdParam, true, Int64GetDatum(id));
  Set(row, kAccessParam, true, PointerGetDatum(sealed.access_token));
  Set(row, kRefreshParam, sealed.has_refresh_token, PointerGetDatum(sealed.refresh_token));
  Set(row, kTypeParam, true, PointerGetDatum(sealed.token_type));
  Set(row, kScopeParam, sealed.has_scope, PointerGetDatum(sealed.scope));
  Set(row, kIssuedParam, true, TimestampTzGetDatum(sealed.issued_at));
  Set(row, kExpiresParam, sealed.expires, TimestampTzGetDatum(sealed.expires_at));
  Set(row, kCapturedParam, sealed.captured != nullptr,
      sealed.captured != nullptr ? CStringGetTextDatum(sealed.captured) : 0);
  Set(row, kClientIdParam, sealed.client_id != nullptr, PointerGetDatum(sealed.client_id));
  Set(row, kClientSecretParam, sealed.client_secret != nullptr, PointerGetDatum(sealed.client_secret));
  Set(row, kRefreshExpiresParam, sealed.refresh_expires, TimestampTzGetDatum(sealed.refresh_expires_at));
}

// 0: what is there is newer.
int64_t Write(SealForRow seal, void* source, Row* row) {
  for (int attempt = 0; attempt < 3; attempt++) {
    if (Execute(kFindStatement, *row) > 0) {
      bool is_null;
      int64_t id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
      const bool newer = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &is_null));
      if (newer && !is_null) return 0;
      FillTokens(id, seal, source, row);
      if (Execute(kUpdateStatement, *row) > 0) return id;
      continue;
    }
    int64_t id = nextval_internal(ExtensionRelation("credential_id_seq"), false);
    FillTokens(id, seal, source, row);
    if (Execute(kInsertStatement, *row) > 0) return id;
  }
  ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                  errmsg("a credential for this provider, subject and label exists that you may not change"),
                  errhint("Row-level security on token_refresh.credential hides it from the current user.")));
  pg_unreachable();
}

void Audit(const Row& row) {
  OwnerScope scope;
  EnterOwnerScope(&scope);
  Execute(kAuditStatement, row);
  LeaveOwnerScope(&scope);
}

void CopyWord(text* to, const std::string& word) {
  memcpy(VARDATA(to), word.data(), word.size());
  SET_VARSIZE(to, VARHDRSZ + word.size());
}

Status SealColumn(const KeyRing& ring, const char* row_key, const char* column, std::string_view token, bytea* to) {
  Status sealed = SealInto(ring, SealedPlace{kCredentialPlace, row_key, column}, token, VARDATA(to));
  SET_VARSIZE(to, VARHDRSZ + SealedSize(token.size()));
  return sealed;
}

}  // namespace

void AllocateCredentialColumns(size_t bound, const OwnClient& client, CredentialColumns* sealed) {
  if (!client.id.empty())
    sealed->client_id = cstring_to_text_with_len(client.id.data(), static_cast<int>(client.id.size()));
  if (!client.secret.empty())
    sealed->client_secret = static_cast<bytea*>(palloc(VARHDRSZ + SealedSize(client.secret.size())));
  sealed->access_token = static_cast<bytea*>(palloc(VARHDRSZ + SealedSize(bound)));
  sealed->refresh_token = static_cast<bytea*>(palloc(VARHDRSZ + SealedSize(bound)));
  sealed->token_type = static_cast<text*>(palloc(VARHDRSZ + bound));
  sealed->scope = static_cast<text*>(palloc(VARHDRSZ + bound));
}

Status SealTokens(const TokenSet& tokens, const OwnClient& client, Micros now, const char* row_key,
                  CredentialColumns* sealed) {
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return ring.error();
  Status status = SealColumn(**ring, row_key, "access_token", tokens.access_token.view(), sealed->access_token);
  sealed->has_refresh_token = !tokens.refresh_token.empty();
  if (status.ok() && sealed->has_refresh_token)
    status = SealColumn(**ring, row_key, "refresh_token", tokens.refresh_token.view(), sealed->refresh_token);
  if (status.ok() && sealed->client_secret != nullptr)
    status = SealColumn(**ring, row_key, "client_secret", client.secret, sealed->client_secret);
  CopyWord(sealed->token_type, tokens.token_type);
  sealed->has_scope = !tokens.scope.empty();
  CopyWord(sealed->scope, tokens.scope);
  if (!tokens.captured.empty()) sealed->captured = CopyOut(tokens.captured);
  sealed->issued_at = ToTimestamp(now);
  sealed->expires = tokens.expires_in.has_value();
  sealed->expires_at = ToTimestamp(now + tokens.expires_in.value_or(0));
  sealed->refresh_expires = tokens.refresh_expires_in.has_value();
  sealed->refresh_expires_at = ToTimestamp(now + tokens.refresh_expires_in.value_or(0));
  return status;
}

void SealGivenTokens(void* source, const char* row_key, CredentialColumns* sealed) {
  const auto* given = static_cast<const GivenTokens*>(source);
  const TokenSet& tokens = *given->tokens;
  AllocateCredentialColumns(std::max({tokens.access_token.size(), tokens.refresh_token.size(),
                                      tokens.token_type.size(), tokens.scope.size()}),
                            given->client, sealed);
  RunCpp([&] { return SealTokens(tokens, given->client, given->given_at, row_key, sealed); });
}

void WriteSecondary(const CredentialName& name, Grant grant, const GivenTokens& given, const char* actor) {
  for (const SecondaryTokens& secondary : given.tokens->secondary) {
    GivenTokens own = {&secondary.tokens, given.given_at, given.client};
    const Datum label = PointerGetDatum(
        cstring_to_text_with_len(secondary.label.data(), static_cast<int>(secondary.label.size())));
    WriteCredential({name.provider, name.subject, label}, grant, SealGivenTokens, &own, actor, given.asked_at);
  }
}

int64_t WriteCredential(const CredentialName& name, Grant grant, SealForRow seal, void* source, const char* actor,
                        Micros asked_at) {
  Row row = {};
  memset(row.nulls, 'n', kParameters);
  Set(&row, kProviderParam, true, name.provider);
  Set(&row, kSubjectParam, true, name.subject);
  Set(&row, kLabelParam, true, name.label);
  Set(&row, kNewGrantParam, true, BoolGetDatum(grant == Grant::kNew));
  Set(&row, kActorParam, actor != nullptr, actor != nullptr ? CStringGetTextDatum(actor) : 0);
  Set(&row, kAskedParam, asked_at != 0, TimestampTzGetDatum(ToTimestamp(asked_at)));
  const int64_t id = Write(seal, source, &row);
  if (id != 0) Audit(row);
  return id;
}

}  // namespace token_refresh
