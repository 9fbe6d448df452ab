// SQL functions complete_authorization and discover_provider: they hand what they are given to the refresher, which
// alone talks to providers, and read what it has committed.
#include "core/encoding.h"
#include "core/provider.h"
#include "pg/arguments.h"
#include "pg/authorization_rows.h"
#include "pg/boundary.h"
#include "pg/bytes.h"
#include "pg/demand.h"
#include "pg/interval_options.h"
#include "pg/sealed_request.h"
#include "pg/settings.h"

extern "C" {
#include "mb/pg_wchar.h"
#include "utils/json.h"

PG_FUNCTION_INFO_V1(token_refresh_complete_authorization);
PG_FUNCTION_INFO_V1(token_refresh_discover_provider);
}

namespace token_refresh {

namespace {

constexpr const char* kBeginAgain = "Begin again with token_refresh.begin_authorization().";

[[noreturn]] void Refuse(const char* reason) {
  ereport(ERROR, (errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION), errmsg("sign-in refused: %s", reason),
                  errhint("%s", kBeginAgain)));
}

// {"name": "value"} pieces in UTF-8, which is what the refresher reads.
void AppendMember(StringInfo json, const char* name, const char* value) {
  if (json->len > 1) appendStringInfoChar(json, ',');
  escape_json(json, name);
  appendStringInfoChar(json, ':');
  escape_json(json, value);
}

std::string_view ToUtf8(StringInfo json) {
  char* utf8 = pg_server_to_any(json->data, json->len, PG_UTF8);
  return {utf8, utf8 == json->data ? static_cast<size_t>(json->len) : strlen(utf8)};
}

AuthorizationKey FindState(text* state) {
  bytea* hash = AllocateBytes(kSha256Bytes);
  RunCpp([&]() -> Status {
    Result<Sha256Digest> digest = Sha256(View(state));
    if (!digest.ok()) return digest.error();
    memcpy(VARDATA(hash), digest->data(), kSha256Bytes);
    return Ok();
  });
  AuthorizationKey key;
  if (!FindAuthorization(hash, &key)) Refuse("the state is unknown");
  if (key.own_write)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE), errmsg("this transaction has itself begun the sign-in"),
                    errhint("Commit first: the refresher sees committed rows only.")));
  return key;
}

// Of a request that has no result in its row.
[[noreturn]] void RaiseNoResult(bool answered, DemandResult result, const AuthorizationResult& row, int64_t request) {
  // The answer may have been overwritten.
  if (row.used && row.taken_by != request) Refuse("the state has been used already");
  if (!answered && !row.used)
    ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE), errmsg("timed out waiting for the provider"),
                    errdetail("The code has not gone out."),
                    errhint("The state is not spent: try again, or raise token_refresh.request_timeout.")));
  if (!answered)
    ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE),
                    errmsg("timed out waiting for the provider"),
                    errdetail("The code is not presented again; what the provider answers is still stored."),
                    errhint("Raise token_refresh.request_timeout for slow providers. %s", kBeginAgain)));
  if (result == DemandResult::kNotFound) Refuse("the state is unknown");
  const char* reason = DemandMessage(result);
  ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE),
                  errmsg("sign-in failed: %s", reason != nullptr ? reason : "the refresher has not done it"),
                  errhint("%s", row.used ? kBeginAgain : "The state is not spent: try again.")));
}

bool IsTrouble(const char* failure) {
  static const char* const words[] = {"provider_unavailable",
                                      "keys_unavailable",
                                      "userinfo_unavailable",
                                      "shutting_down",
                                      "interrupted",
                                      "internal",
                                      "not_stored"};
  for (const char* word : words)
    if (strcmp(failure, word) == 0) return true;
  return false;
}

// Of the refusals before a code goes out; the others have a word that says more.
bool IsOfState(const char* failure) {
  return strcmp(failure, "expired") == 0 || strcmp(failure, "other_provider") == 0;
}

// What is committed counts, not what a slot says that may be in use again. Raises unless there is a credential.
void ReadResult(int64_t id, const SealedRequest& request, bool answered, DemandResult result,
                AuthorizationResult* row) {
  if (!FetchAuthorizationResult(id, row)) Refuse("the state is unknown");
  if (!row->ended || row->taken_by != request.id) RaiseNoResult(answered, result, *row, request.id);
  if (row->failure == nullptr) return;
  if (IsOfState(row->failure)) Refuse(row->message);
  const int code = IsTrouble(row->failure) ? ERRCODE_CONNECTION_FAILURE : ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
  ereport(ERROR, (errcode(code), errmsg("sign-in refused (%s): %s", row->failure, row->message),
                  errhint("%s", kBeginAgain)));
}

}  // namespace

}  // namespace token_refresh

extern "C" Datum token_refresh_complete_authorization(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  text* state = RequireText(fcinfo, 0, "state");
  text* code = RequireText(fcinfo, 1, "code");
  if (!CanRefresh()) RaiseCannotRefresh();
  // Before the code goes out: it raises where no set is expected.
  InitMaterializedSRF(fcinfo, 0);
  const AuthorizationKey key = FindState(state);
  StringInfoData payload;
  initStringInfo(&payload);
  appendStringInfo(&payload, "{\"authorization\":" INT64_FORMAT, key.id);
  AppendMember(&payload, "at", key.provider);
  AppendMember(&payload, "code", text_to_cstring(code));
  if (!PG_ARGISNULL(2)) AppendMember(&payload, "provider", text_to_cstring(PG_GETARG_TEXT_PP(2)));
  if (!PG_ARGISNULL(3)) AppendMember(&payload, "iss", text_to_cstring(PG_GETARG_TEXT_PP(3)));
  appendStringInfoChar(&payload, '}');
  const std::string_view utf8 = ToUtf8(&payload);
  if (utf8.size() > kMaxRequestPayload) Refuse("the code is too long");

  SealedRequest request;
  EnterSealedRequest(RequestKind::kCompleteAuthorization, utf8, &request);
  DemandResult result = DemandResult::kInternal;
  const bool answered = AwaitSealedRequest(&request, &result);
  AuthorizationResult row;
  ReadResult(key.id, request, answered, result, &row);

  ReturnSetInfo* set = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
  Datum values[] = {Int64GetDatum(row.credential_id), CStringGetTextDatum(row.provider), CStringGetTextDatum(row.owner),
                    row.claims};
  bool nulls[] = {false, false, false, row.claims == 0};
  tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
  return 0;
}

extern "C" Datum token_refresh_discover_provider(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  text* issuer = RequireText(fcinfo, 0, "issuer");
  RequireArgument(fcinfo, 1, "options");
  RequireArgument(fcinfo, 2, "has_client_secret");
  Jsonb* options = ConvertIntervalOptions(PG_GETARG_JSONB_P(1), ProviderOptionSpecs());
  const char* options_json = JsonbToCString(nullptr, &options->root, VARSIZE(options));
  RunCpp([&]() -> Status {
    token_refresh::Result<ProviderOptions> parsed = ParseProviderOptions(options_json, Settings::allow_insecure_http);
    return parsed.ok() ? Ok() : Status(parsed.error());
  });
  StringInfoData payload;
  initStringInfo(&payload);
  appendStringInfo(&payload, "{\"options\":%s,\"has_client_secret\":%s", options_json,
                   PG_GETARG_BOOL(2) ? "true" : "false");
  AppendMember(&payload, "issuer", text_to_cstring(issuer));
  appendStringInfoChar(&payload, '}');
  const std::string_view utf8 = ToUtf8(&payload);
  if (utf8.size() > kMaxRequestPayload)
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("issuer and options are too long")));

  SealedRequest request;
  EnterSealedRequest(RequestKind::kDiscover, utf8, &request);
  DemandResult result = DemandResult::kInternal;
  const bool answered = AwaitSealedRequest(&request, &result);
  DiscoveryAnswer answer;
  if (!FetchDiscoveryAnswer(request.id, &answer))
    ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE), errmsg("issuer \"%s\" could not be asked", text_to_cstring(issuer)),
                    errdetail("%s.", answered ? "The refresher could not do it; see the server log" : "It did not answer in time"),
                    errhint("Give the endpoints as options instead, or try again.")));
  if (!answer.found)
    ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE), errmsg("issuer \"%s\" cannot be discovered", text_to_cstring(issuer)),
                    errdetail("%s.", answer.message), errhint("Check the issuer, or give the endpoints as options instead.")));
  PG_RETURN_DATUM(answer.options);
}
