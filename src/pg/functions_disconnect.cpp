// SQL function disconnect: forgets a credential, with the caller's privileges, and has the refresher revoke its tokens
// after COMMIT, however long the provider may be down.
#include "pg/arguments.h"
#include "pg/boundary.h"
#include "pg/catalog.h"
#include "pg/owner_scope.h"
#include "pg/provider_cache.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"
#include "pg/wakeup.h"

extern "C" {
PG_FUNCTION_INFO_V1(token_refresh_disconnect);
}

namespace token_refresh {

namespace {

// With the caller's rights, and his search_path.
Statement find_credential = {
    "SELECT id::pg_catalog.text FROM token_refresh.credential WHERE provider OPERATOR(pg_catalog.=) $1"
    " AND subject OPERATOR(pg_catalog.=) $2 AND label OPERATOR(pg_catalog.=) $3 FOR UPDATE",
    3,
    {TEXTOID, TEXTOID, TEXTOID},
    nullptr};
Statement delete_credential = {
    "DELETE FROM token_refresh.credential WHERE id OPERATOR(pg_catalog.=) $1::pg_catalog.int8", 1, {TEXTOID}, nullptr};

// With the owner's. What is parked, and what a refresh brings that is under way, is queued when it is forgotten.
Statement expect_tokens = {
    "SELECT token_refresh._queue_revocation($1, $2, $3, NULL, 'token_refresh.parked_result', s.id::text,"
    " 'refresh_token', c.client_id, c.client_secret, c.id::text)"
    " FROM token_refresh.schedule s JOIN token_refresh.credential c ON c.id = $4::bigint"
    " WHERE s.token_table = 1 AND s.row_key = $4",
    4,
    {TEXTOID, TEXTOID, TEXTOID, TEXTOID},
    nullptr};
// What is parked under its name has an id, and a client, of its own.
Statement revoke_by_name = {
    "SELECT token_refresh._queue_revocation($1, $2, $3, t.token, 'token_refresh.parked_result', p.schedule_id::text,"
    " t.hint, p.client_id, p.client_secret)"
    " FROM token_refresh.parked_result p,"
    " LATERAL (VALUES (p.refresh_token, 'refresh_token'), (p.access_token, 'access_token')) AS t(token, hint)"
    " WHERE p.token_table = 0 AND p.provider = $1 AND p.subject = $2 AND p.label = $3 AND t.token IS NOT NULL",
    3,
    {TEXTOID, TEXTOID, TEXTOID},
    nullptr};
Statement forget_by_name = {
    "DELETE FROM token_refresh.parked_result WHERE token_table = 0 AND provider = $1 AND subject = $2 AND label = $3",
    3,
    {TEXTOID, TEXTOID, TEXTOID},
    nullptr};
Statement revoke_stored = {
    "SELECT token_refresh._queue_revocation($1, $2, $3, t.token, 'token_refresh.credential', c.id::text, t.hint,"
    " c.client_id, c.client_secret, c.id::text)"
    " FROM token_refresh.credential c,"
    " LATERAL (VALUES (c.refresh_token, 'refresh_token'), (c.access_token, 'access_token')) AS t(token, hint)"
    " WHERE c.id = $4::bigint AND t.token IS NOT NULL",
    4,
    {TEXTOID, TEXTOID, TEXTOID, TEXTOID},
    nullptr};
Statement audit = {
    "INSERT INTO token_refresh.audit_event (event, provider, token_table, row_key, subject, label)"
    " VALUES ('disconnected', $1, 1, $4, $2, $3)",
    4,
    {TEXTOID, TEXTOID, TEXTOID, TEXTOID},
    nullptr};

bool ForgetByName(Datum* values, bool revoke) {
  if (revoke) Execute(&revoke_by_name, values, false);
  return Execute(&forget_by_name, values, false) > 0;
}

void RunAsOwner(Datum* values, bool revoke) {
  OwnerScope scope;
  EnterOwnerScope(&scope);
  if (revoke) Execute(&expect_tokens, values, false);
  if (revoke) Execute(&revoke_stored, values, false);
  ForgetByName(values, revoke);
  Execute(&audit, values, false);
  LeaveOwnerScope(&scope);
}

// Of a credential that is parked, but has no row yet by which policies could say whose it is. False: there is none.
bool ForgetUnstored(Datum* values, bool revoke) {
  const Oid table = ExtensionRelation("credential");
  if (pg_class_aclcheck(table, GetUserId(), ACL_DELETE) != ACLCHECK_OK ||
      check_enable_rls(table, InvalidOid, true) == RLS_ENABLED)
    return false;
  OwnerScope scope;
  EnterOwnerScope(&scope);
  const bool found = ForgetByName(values, revoke);
  if (found) Execute(&audit, values, false, "   n");
  LeaveOwnerScope(&scope);
  return found;
}

}  // namespace

}  // namespace token_refresh

extern "C" Datum token_refresh_disconnect(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  static const char* const names[] = {"provider", "subject", "label", "revoke"};
  for (int i = 0; i < 4; i++) RequireArgument(fcinfo, i, names[i]);
  char* provider = text_to_cstring(PG_GETARG_TEXT_PP(0));
  if (FindProvider(provider) == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("unknown provider \"%s\"", provider),
                    errhint("Create it with token_refresh.create_provider().")));
  if (SPI_connect() != SPI_OK_CONNECT) elog(ERROR, "token_refresh: SPI_connect failed");
  Datum values[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2), 0};
  bool done = Execute(&find_credential, values, false) == 1;
  if (done) {
    bool is_null;
    values[3] = PointerGetDatum(
        DatumGetTextPCopy(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null)));
    // Before the row goes, and with it what its envelopes and the schedule say of it.
    RunAsOwner(values, PG_GETARG_BOOL(3));
    done = Execute(&delete_credential, &values[3], false) == 1;
    if (!done)
      ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("the credential may not be deleted"),
                      errhint("Row-level security on token_refresh.credential forbids it to the current user.")));
  } else {
    done = ForgetUnstored(values, PG_GETARG_BOOL(3));
  }
  // In any case: when it looks at the schedule by itself, it does not look for revocations.
  if (done) WakeRefresherAtCommit(DT_NOBEGIN);
  SPI_finish();
  PG_RETURN_BOOL(done);
}
