// SQL functions behind issue_api_token, import_api_token, revoke_api_token and _rotate_api_tokens: they make tokens,
// hash and seal them, and find them; what is stored is written by SQL.
#include "core/api_scope.h"
#include "core/api_token.h"
#include "core/sealed_box.h"
#include "pg/api_token_check.h"
#include "pg/boundary.h"
#include "pg/bytes.h"
#include "pg/keys.h"

extern "C" {
PG_FUNCTION_INFO_V1(token_refresh_make_api_token);
PG_FUNCTION_INFO_V1(token_refresh_make_successors);
PG_FUNCTION_INFO_V1(token_refresh_find_api_token);
PG_FUNCTION_INFO_V1(token_refresh_is_grantable_scope);
}

namespace token_refresh {

namespace {

// Hash of a new token into hash; store(token) keeps the token itself.
template <class StoreToken>
void MakeToken(std::string_view prefix, bytea* hash, StoreToken store) {
  RunCpp([&]() -> Status {
    token_refresh::Result<Secret> token = MakeApiToken(prefix);
    if (!token.ok()) return token.error();
    token_refresh::Result<Sha256Digest> digest = HashApiToken(token->view());
    if (!digest.ok()) return digest.error();
    memcpy(VARDATA(hash), digest->data(), kSha256Bytes);
    return store(token->view());
  });
}

// The token that will succeed the one with this id, sealed for its row.
bytea* MakeSuccessor(int64_t id, std::string_view prefix, bytea* hash) {
  char row[24];
  pg_lltoa(id, row);
  bytea* sealed = AllocateBytes(SealedSize(prefix.size() + kApiTokenBodyChars));
  MakeToken(prefix, hash, [&](std::string_view token) -> Status {
    token_refresh::Result<const KeyRing*> ring = LoadKeyRing();
    if (!ring.ok()) return ring.error();
    return SealInto(**ring, SealedPlace{kApiTokenPlace, row, kSuccessorColumn}, token, VARDATA(sealed));
  });
  return sealed;
}

}  // namespace

}  // namespace token_refresh

extern "C" Datum token_refresh_make_api_token(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  std::string_view prefix = View(PG_GETARG_TEXT_PP(0));
  TupleDesc desc;
  if (get_call_result_type(fcinfo, nullptr, &desc) != TYPEFUNC_COMPOSITE) elog(ERROR, "token_refresh: no row type");
  // Not longer than a token can be: what is longer is refused before anything is written.
  bytea* token = AllocateBytes(Min(prefix.size(), kMaxApiTokenPrefix) + kApiTokenBodyChars);
  bytea* hash = AllocateBytes(kSha256Bytes);
  MakeToken(prefix, hash, [token](std::string_view made) {
    memcpy(VARDATA(token), made.data(), made.size());
    return Ok();
  });
  Datum values[] = {PointerGetDatum(token), PointerGetDatum(hash)};
  bool nulls[] = {false, false};
  PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

extern "C" Datum token_refresh_make_successors(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  InitMaterializedSRF(fcinfo, 0);
  ReturnSetInfo* result = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
  Datum *ids, *prefixes;
  int count, prefix_count;
  deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), INT8OID, sizeof(int64), true, TYPALIGN_DOUBLE, &ids, nullptr, &count);
  deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false, TYPALIGN_INT, &prefixes, nullptr, &prefix_count);
  if (count != prefix_count) elog(ERROR, "token_refresh: %d tokens, but %d prefixes", count, prefix_count);
  bytea* hash = AllocateBytes(kSha256Bytes);
  for (int i = 0; i < count; i++) {
    bytea* sealed = MakeSuccessor(DatumGetInt64(ids[i]), View(DatumGetTextPP(prefixes[i])), hash);
    Datum values[] = {ids[i], PointerGetDatum(hash), PointerGetDatum(sealed)};
    bool nulls[] = {false, false, false};
    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    pfree(sealed);
  }
  return 0;
}

extern "C" Datum token_refresh_find_api_token(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  CheckedToken checked;
  CheckApiToken(PG_GETARG_TEXT_PP(0), true, &checked);
  const bool found = checked.verdict != ApiTokenVerdict::kMalformed && checked.verdict != ApiTokenVerdict::kUnknown;
  if (!found) PG_RETURN_NULL();
  PG_RETURN_INT64(checked.row.id);
}

extern "C" Datum token_refresh_is_grantable_scope(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  PG_RETURN_BOOL(IsGrantableScope(View(PG_GETARG_TEXT_PP(0))));
}
