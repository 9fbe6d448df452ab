// SQL functions behind create_signing_key, import_signing_key, refresh_session and the hash of IP addresses: they make
// keys and secrets, and use them; what is stored is written by SQL.
#include "core/encoding.h"
#include "core/ip_address.h"
#include "core/new_key.h"
#include "core/sealed_box.h"
#include "core/session_refresh_token.h"
#include "pg/arguments.h"
#include "pg/boundary.h"
#include "pg/bytes.h"
#include "pg/keys.h"
#include "pg/session_rows.h"
#include "pg/signing_keys.h"

extern "C" {
#include "mb/pg_wchar.h"
#include "utils/uuid.h"

PG_FUNCTION_INFO_V1(token_refresh_make_signing_key);
PG_FUNCTION_INFO_V1(token_refresh_make_session_secret);
PG_FUNCTION_INFO_V1(token_refresh_make_session_refresh_token);
PG_FUNCTION_INFO_V1(token_refresh_read_session_refresh_token);
PG_FUNCTION_INFO_V1(token_refresh_ip_hash);
}

namespace token_refresh {

namespace {

// Where C++ puts a new signing key; palloc'd.
struct NewKey {
  char* kid;
  char* sealed;
  size_t sealed_size;
  char* public_jwk;  // null: HS256
};

Result<JwsAlgorithm> SigningAlgorithm(std::string_view name) {
  const auto algorithm = FindJwsAlgorithm(name);
  if (algorithm.has_value() && *algorithm != JwsAlgorithm::kPs256 && JwsAlgorithmName(*algorithm) == name)
    return *algorithm;
  return Error{ErrorCode::kInvalidArgument, "argument \"algorithm\" must be HS256, ES256, RS256 or EdDSA", {}};
}

Status SealKey(std::string_view kid, std::string_view key, NewKey* made) {
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return ring.error();
  Result<std::string> sealed = Seal(**ring, SealedPlace{kSigningKeyPlace, kid, kSigningKeyColumn}, key);
  if (!sealed.ok()) return sealed.error();
  made->sealed = CopyOut(*sealed);
  made->sealed_size = sealed->size();
  return Ok();
}

// An empty kid becomes the thumbprint of the key.
Status MakeKey(std::string_view algorithm_name, const Secret* given, const std::string& kid, NewKey* made) {
  Result<JwsAlgorithm> algorithm = SigningAlgorithm(algorithm_name);
  if (!algorithm.ok()) return algorithm.error();
  Result<Secret> key = given != nullptr ? Result<Secret>(given->Clone()) : MakeKeyFor(*algorithm);
  if (!key.ok()) return key.error();
  Result<SigningKey> signing = *algorithm == JwsAlgorithm::kHs256 ? SigningKey::FromSecret(key->view(), kid)
                                                                  : SigningKey::FromPem(key->view(), *algorithm, kid);
  if (!signing.ok()) return signing.error();
  made->kid = CopyOut(signing->kid());
  const auto jwk = signing->verification_key().PublicJwk();
  if (jwk.has_value()) made->public_jwk = CopyOut(*jwk);
  return SealKey(signing->kid(), key->view(), made);
}

// use(secret) with the secret of that purpose.
template <class Use>
void WithSessionSecret(const char* purpose, Use use) {
  bytea* sealed = FetchSessionSecret(purpose);
  if (sealed == nullptr)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("sessions have not been set up"),
                    errhint("Make a signing key with token_refresh.create_signing_key().")));
  RunCpp([&]() -> Status {
    Result<const KeyRing*> ring = LoadKeyRing();
    if (!ring.ok()) return ring.error();
    Result<Secret> secret = Open(**ring, SealedPlace{kSessionSecretPlace, purpose, kSessionSecretColumn}, View(sealed));
    if (!secret.ok()) return secret.error();
    return use(secret->view());
  });
}

}  // namespace

}  // namespace token_refresh

extern "C" Datum token_refresh_make_signing_key(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  TupleDesc desc;
  if (get_call_result_type(fcinfo, nullptr, &desc) != TYPEFUNC_COMPOSITE) elog(ERROR, "token_refresh: no row type");
  text* algorithm = RequireText(fcinfo, 0, "algorithm");
  char* given = PG_ARGISNULL(1) ? nullptr : text_to_cstring(PG_GETARG_TEXT_PP(1));
  const char* utf8 = given == nullptr ? nullptr : pg_server_to_any(given, static_cast<int>(strlen(given)), PG_UTF8);
  const char* kid = PG_ARGISNULL(2) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(2));
  NewKey made = {};
  PlainError error;
  const bool ok = CallCpp(error, [&] {
    const Secret key(utf8 == nullptr ? "" : utf8);
    return MakeKey(View(algorithm), utf8 == nullptr ? nullptr : &key, kid, &made);
  });
  if (utf8 != given) explicit_bzero(const_cast<char*>(utf8), strlen(utf8));
  if (given != nullptr) explicit_bzero(given, strlen(given));
  if (!ok) RaisePlainError(error);
  bytea* sealed = AllocateBytes(made.sealed_size);
  memcpy(VARDATA(sealed), made.sealed, made.sealed_size);
  Datum values[] = {CStringGetTextDatum(made.kid), PointerGetDatum(sealed), 0};
  bool nulls[] = {false, false, made.public_jwk == nullptr};
  if (!nulls[2]) values[2] = DirectFunctionCall1(jsonb_in, CStringGetDatum(made.public_jwk));
  PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

extern "C" Datum token_refresh_make_session_secret(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  text* purpose = PG_GETARG_TEXT_PP(0);
  bytea* sealed = AllocateBytes(SealedSize(kNewSecretBytes));
  RunCpp([&]() -> Status {
    token_refresh::Result<const KeyRing*> ring = LoadKeyRing();
    if (!ring.ok()) return ring.error();
    token_refresh::Result<Secret> secret = MakeSecret();
    if (!secret.ok()) return secret.error();
    return SealInto(**ring, SealedPlace{kSessionSecretPlace, View(purpose), kSessionSecretColumn}, secret->view(),
                    VARDATA(sealed));
  });
  PG_RETURN_BYTEA_P(sealed);
}

extern "C" Datum token_refresh_make_session_refresh_token(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  SessionRefreshToken token;
  memcpy(token.session.data(), PG_GETARG_UUID_P(0)->data, token.session.size());
  token.counter = static_cast<uint32_t>(PG_GETARG_INT32(1));
  token.expires_at = FromTimestamp(PG_GETARG_TIMESTAMPTZ(2));
  text* result = AllocateBytes(kSessionRefreshTokenChars);
  WithSessionSecret(kRefreshTokenPurpose, [&](std::string_view secret) -> Status {
    token_refresh::Result<Secret> made = MakeSessionRefreshToken(secret, token);
    if (!made.ok()) return made.error();
    memcpy(VARDATA(result), made->view().data(), kSessionRefreshTokenChars);
    return Ok();
  });
  PG_RETURN_TEXT_P(result);
}

extern "C" Datum token_refresh_read_session_refresh_token(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  TupleDesc desc;
  if (get_call_result_type(fcinfo, nullptr, &desc) != TYPEFUNC_COMPOSITE) elog(ERROR, "token_refresh: no row type");
  text* presented = PG_GETARG_TEXT_PP(0);
  SessionRefreshToken token;
  bool good = false;
  WithSessionSecret(kRefreshTokenPurpose, [&](std::string_view secret) -> Status {
    auto read = ReadSessionRefreshToken(secret, View(presented));
    if (!read.ok()) return read.error();
    good = read->has_value();
    if (good) token = **read;
    return Ok();
  });
  if (!good) PG_RETURN_NULL();
  pg_uuid_t session;
  memcpy(session.data, token.session.data(), token.session.size());
  Datum values[] = {UUIDPGetDatum(&session), Int32GetDatum(static_cast<int32>(token.counter)),
                    TimestampTzGetDatum(ToTimestamp(token.expires_at))};
  bool nulls[] = {false, false, false};
  PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

extern "C" Datum token_refresh_ip_hash(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  text* ip = PG_GETARG_TEXT_PP(0);
  bytea* hash = AllocateBytes(kSha256Bytes);
  WithSessionSecret(kIpHashPurpose, [&](std::string_view secret) -> Status {
    token_refresh::Result<Sha256Digest> mac = HmacSha256(secret, NormalizedIpAddress(View(ip)));
    if (!mac.ok()) return mac.error();
    memcpy(VARDATA(hash), mac->data(), kSha256Bytes);
    return Ok();
  });
  PG_RETURN_BYTEA_P(hash);
}
