#include "pg/authorization_statements.h"

#include "pg/save_arrays.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"

extern "C" {
#include "mb/pg_wchar.h"
#include "utils/fmgrprotos.h"
}

namespace token_refresh {

namespace {

constexpr const char* kRefresherActor = "refresher";

Statement take_authorization = {
    "SELECT t.result, t.provider, t.redirect_uri, t.code_verifier, t.state_hash, t.sends_verifier, t.wants_id_token,"
    " t.has_subject, t.max_age FROM token_refresh._take_authorization($1, $2, $3, $4) t",
    4,
    {INT8OID, TEXTOID, TEXTOID, INT8OID},
    nullptr};
Statement find_owner = {
    "SELECT o.provider, o.owner, o.label FROM token_refresh._authorization_owner($1, $2) o"
    " WHERE o.provider IS NOT NULL",
    2,
    {INT8OID, JSONBOID},
    nullptr};
Statement finish_accepted = {
    "SELECT token_refresh._finish_authorization($1, $2, $3, $4, NULL, NULL)",
    4,
    {INT8OID, INT8OID, TEXTOID, JSONBOID},
    nullptr};
Statement finish_refused = {
    "SELECT token_refresh._finish_authorization($1, NULL, NULL, NULL, $2, $3)",
    3,
    {INT8OID, TEXTOID, TEXTOID},
    nullptr};
Statement revoke_refused = {
    "SELECT token_refresh._queue_revocation(a.provider, coalesce(a.subject, ''), a.label, $2,"
    " 'token_refresh.authorization_request', a.id::text, $3)"
    " FROM token_refresh.authorization_request a WHERE a.id = $1",
    3,
    {INT8OID, BYTEAOID, TEXTOID},
    nullptr};

Statement forget_unfinished = {"SELECT token_refresh._forget_unfinished()", 0, {}, nullptr};

Datum Column(int number, bool* is_null) {
  return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, is_null);
}

Datum RequireColumn(int number) {
  bool is_null;
  const Datum value = Column(number, &is_null);
  if (is_null) elog(ERROR, "token_refresh: an authorization request is incomplete");
  return value;
}

void ReadTaken(TakenAuthorization* taken) {
  taken->provider = TextDatumGetCString(RequireColumn(2));
  taken->redirect_uri = TextDatumGetCString(RequireColumn(3));
  taken->code_verifier = DatumGetByteaPCopy(RequireColumn(4));
  taken->state_hash = DatumGetByteaPCopy(RequireColumn(5));
  taken->sends_verifier = DatumGetBool(RequireColumn(6));
  taken->wants_id_token = DatumGetBool(RequireColumn(7));
  taken->has_subject = DatumGetBool(RequireColumn(8));
  bool is_null;
  taken->max_age = DatumGetInt32(Column(9, &is_null));
  taken->has_max_age = !is_null;
}

Datum JsonDatum(std::string_view json) {
  char* text = pnstrdup(json.data(), json.size());
  return DirectFunctionCall1(jsonb_in,
                             CStringGetDatum(pg_any_to_server(text, static_cast<int>(json.size()), PG_UTF8)));
}

Datum TextOrNull(const char* text) { return text != nullptr ? CStringGetTextDatum(text) : 0; }

void Revoke(int64_t id, std::string_view sealed, const char* hint) {
  if (sealed.empty()) return;
  Datum values[] = {Int64GetDatum(id), BytesDatum(sealed), CStringGetTextDatum(hint)};
  Execute(&revoke_refused, values, false);
}

}  // namespace

void TakeAuthorization(MemoryContext context, int64_t id, const char* expected_provider, const char* iss,
                       int64_t caller, TakenAuthorization* taken) {
  // Before the code goes out it must be certain that it does not go out again.
  CommitToDisk();
  Datum values[] = {Int64GetDatum(id), TextOrNull(expected_provider), TextOrNull(iss), Int64GetDatum(caller)};
  const char nulls[] = {' ', expected_provider != nullptr ? ' ' : 'n', iss != nullptr ? ' ' : 'n', ' ', '\0'};
  if (Execute(&take_authorization, values, false, nulls) != 1)
    elog(ERROR, "token_refresh: an authorization request is lost");
  MemoryContext previous = MemoryContextSwitchTo(context);
  strlcpy(taken->result, TextDatumGetCString(RequireColumn(1)), sizeof(taken->result));
  if (strcmp(taken->result, "taken") == 0) ReadTaken(taken);
  MemoryContextSwitchTo(previous);
}

void ForgetUnfinished() { Execute(&forget_unfinished, nullptr, false); }

void FinishAccepted(int64_t id, std::string_view claims, const GivenTokens& given, bool* owner_known) {
  CommitToDisk();
  bool is_null;
  Datum owner_values[] = {Int64GetDatum(id), JsonDatum(claims.empty() ? "{}" : claims)};
  if (Execute(&find_owner, owner_values, false) != 1)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("the authorization request is gone")));
  *owner_known = true;
  const CredentialName name = {PointerGetDatum(DatumGetTextPCopy(RequireColumn(1))),
                               PointerGetDatum(DatumGetTextPCopy(RequireColumn(2))),
                               PointerGetDatum(DatumGetTextPCopy(Column(3, &is_null)))};
  GivenTokens source = given;
  const int64_t credential = WriteCredential(name, Grant::kNew, SealGivenTokens, &source, kRefresherActor);
  WriteSecondary(name, Grant::kNew, given, kRefresherActor);
  Datum values[] = {Int64GetDatum(id), Int64GetDatum(credential), name.subject, owner_values[1]};
  Execute(&finish_accepted, values, false);
}

void FinishRefused(int64_t id, std::string_view failure, std::string_view message, const RefusedTokens& tokens) {
  CommitToDisk();
  Revoke(id, tokens.refresh_token, "refresh_token");
  Revoke(id, tokens.access_token, "access_token");
  Datum values[] = {Int64GetDatum(id), TextDatum(failure), MessageDatum(message)};
  Execute(&finish_refused, values, false);
}

}  // namespace token_refresh
