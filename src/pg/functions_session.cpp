// SQL functions validate_jwt, which is on the way of every request of an application, _sign_jwt and _interval_setting.
#include "core/json_escapes.h"
#include "core/jws.h"
#include "core/jwt_claims.h"
#include "core/uuid.h"
#include "pg/boundary.h"
#include "pg/session_rows.h"
#include "pg/settings.h"
#include "pg/signing_keys.h"
#include "pg/verified_jwts.h"

extern "C" {
#include "access/detoast.h"
#include "mb/pg_wchar.h"

PG_FUNCTION_INFO_V1(token_refresh_validate_jwt);
PG_FUNCTION_INFO_V1(token_refresh_sign_jwt);
PG_FUNCTION_INFO_V1(token_refresh_interval_setting);
}

namespace token_refresh {

namespace {

// What is left of a JWT that is good in itself.
struct CheckedJwt {
  bool good;
  bool known;  // from before
  Uuid jwt_id;
  Uuid account;
  Micros expires_at;  // of use to remember it; 0: its exp is no whole number
  Sha256Digest digest;
  char* claims;     // JSON in UTF-8, palloc'd; of one that is not known
  Jsonb* document;  // palloc'd; of one that is known
};

std::optional<std::string_view> Configured(const char* setting) {
  if (setting == nullptr || setting[0] == '\0') return std::nullopt;
  return setting;
}

std::optional<Uuid> UuidClaim(const SecretJson& claims, const char* name) {
  const SecretJson* claim = FindMember(claims, name);
  const auto text = claim == nullptr ? std::nullopt : TextOf(*claim);
  return text.has_value() ? ParseUuid(*text) : std::nullopt;
}

// As it was signed. Where the server's encoding is another, with every \u beyond ASCII resolved: what it cannot express
// must not become an error.
char* ClaimsText(const VerifiedJwt& jwt) {
  if (GetDatabaseEncoding() == PG_UTF8) return CopyOut(jwt.payload.view());
  const SecretString text = ResolveUnicodeEscapes(jwt.payload.view());
  return CopyOut({text.data(), text.size()});
}

JwtSituation Situation() {
  return {VerificationKeysVersion(), Configured(Settings::jwt_issuer).value_or(""),
          Configured(Settings::jwt_audience).value_or("")};
}

Micros Leeway() { return Settings::jwt_leeway_s * kSecond; }

// What its beginning depends on was checked at that time, and time goes on.
bool Recall(Micros now, CheckedJwt* checked) {
  const VerifiedSession* known = FindVerifiedJwt(checked->digest, Situation());
  if (known == nullptr) return false;
  checked->known = true;
  checked->good = now < known->expires_at + Leeway();
  checked->jwt_id = known->jwt_id;
  checked->account = known->account;
  if (checked->good) checked->document = reinterpret_cast<Jsonb*>(CopyOut(known->claims));
  return true;
}

Micros WholeExpiry(const SecretJson& claims) {
  const SecretJson* claim = FindMember(claims, "exp");
  const auto* seconds = claim == nullptr ? nullptr : claim->get_ptr<const uint64_t*>();
  return seconds == nullptr ? 0 : static_cast<Micros>(*seconds) * kSecond;
}

Status Check(std::string_view token, const JwkSet& keys, CheckedJwt* checked) {
  const Micros now = FromTimestamp(GetCurrentTimestamp());
  token_refresh::Result<Sha256Digest> digest = Sha256(token);
  if (!digest.ok()) return digest.error();
  checked->digest = *digest;
  if (Recall(now, checked)) return Ok();
  const VerifiedJwt jwt = VerifyJwt(token, keys, {},
                                    {.now = now,
                                     .leeway = Leeway(),
                                     .issuer = Configured(Settings::jwt_issuer),
                                     .audience = Configured(Settings::jwt_audience)});
  if (jwt.failure == JwtFailure::kInternal) return Error{ErrorCode::kInternal, "the JWT could not be checked", {}};
  if (!jwt.ok()) return Ok();
  const auto jwt_id = UuidClaim(jwt.claims, "jti");
  const auto account = UuidClaim(jwt.claims, "sub");
  if (!jwt_id.has_value() || !account.has_value()) return Ok();
  checked->jwt_id = *jwt_id;
  checked->account = *account;
  checked->expires_at = WholeExpiry(jwt.claims);
  checked->claims = ClaimsText(jwt);
  checked->good = true;
  return Ok();
}

void Remember(const CheckedJwt& checked, Jsonb* document, const JwtSituation& situation) {
  if (checked.expires_at == 0) return;
  RunCpp([&]() -> Status {
    RememberJwt(
        checked.digest, situation,
        {checked.jwt_id, checked.account, checked.expires_at, {reinterpret_cast<char*>(document), VARSIZE(document)}});
    return Ok();
  });
}

bool IsSessionAlive(const CheckedJwt& checked) {
  SessionRow session;
  return FetchSession(checked.jwt_id, &session) && !session.revoked && session.account == checked.account &&
         session.expires_at > GetCurrentTimestamp();
}

// In the server's encoding; null when that cannot express it.
char* ToServerEncoding(char* utf8) {
  const int length = static_cast<int>(strlen(utf8));
  const int encoding = GetDatabaseEncoding();
  if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII) return utf8;
  const Oid conversion = FindDefaultConversionProc(PG_UTF8, encoding);
  if (!OidIsValid(conversion)) return nullptr;
  const int room = length * MAX_CONVERSION_GROWTH + 1;
  char* converted = static_cast<char*>(palloc(room));
  const int done = pg_do_encoding_conversion_buf(conversion, PG_UTF8, encoding, reinterpret_cast<unsigned char*>(utf8),
                                                 length, reinterpret_cast<unsigned char*>(converted), room, true);
  return done == length ? converted : nullptr;
}

}  // namespace

}  // namespace token_refresh

extern "C" Datum token_refresh_validate_jwt(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  if (toast_raw_datum_size(PG_GETARG_DATUM(0)) > kMaxSessionTokenBytes + VARHDRSZ) PG_RETURN_NULL();
  text* token = PG_GETARG_TEXT_PP(0);
  CheckedJwt checked = {};
  const JwkSet* keys = VerificationKeys();
  // The keys may be others after the next call into PostgreSQL.
  const JwtSituation situation = Situation();
  RunCpp([&] { return Check({VARDATA_ANY(token), VARSIZE_ANY_EXHDR(token)}, *keys, &checked); });
  if (!checked.good || !IsSessionAlive(checked)) PG_RETURN_NULL();
  if (checked.known) PG_RETURN_JSONB_P(checked.document);
  char* claims = ToServerEncoding(checked.claims);
  if (claims == nullptr) PG_RETURN_NULL();
  Jsonb* document = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(claims)));
  Remember(checked, document, situation);
  PG_RETURN_JSONB_P(document);
}

extern "C" Datum token_refresh_sign_jwt(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  Jsonb* claims = PG_GETARG_JSONB_P(0);
  char* in_server_encoding = JsonbToCString(nullptr, &claims->root, VARSIZE(claims));
  const char* utf8 = pg_server_to_any(in_server_encoding, static_cast<int>(strlen(in_server_encoding)), PG_UTF8);
  char* token = nullptr;
  const SigningKey* key = NewestSigningKey();
  RunCpp([&]() -> Status {
    token_refresh::Result<std::string> made = SignJwt(*key, utf8);
    if (!made.ok()) return made.error();
    token = CopyOut(*made);
    WipeString(*made);
    return Ok();
  });
  text* result = cstring_to_text(token);
  explicit_bzero(token, strlen(token));
  PG_RETURN_TEXT_P(result);
}

extern "C" Datum token_refresh_interval_setting(PG_FUNCTION_ARGS) {
  const char* value = GetConfigOptionByName(text_to_cstring(PG_GETARG_TEXT_PP(0)), nullptr, false);
  PG_RETURN_DATUM(
      DirectFunctionCall3(interval_in, CStringGetDatum(value), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}
