// SQL function behind begin_authorization: the URL, and the secrets that tie the answer to it.
#include "core/authorization_url.h"
#include "core/encoding.h"
#include "core/option_values.h"
#include "core/sealed_box.h"
#include "core/secret_json.h"
#include "pg/authorization_statements.h"
#include "pg/boundary.h"
#include "pg/keys.h"
#include "pg/settings.h"
#include "pg/spi_arrays.h"

extern "C" {
#include "mb/pg_wchar.h"

PG_FUNCTION_INFO_V1(token_refresh_make_authorization);
}

namespace token_refresh {

namespace {

constexpr const char* kParamsArgument = "authorization_params";

// The arguments, as text in UTF-8; empty: null.
struct Wish {
  const char *client_id, *options, *redirect_uri, *scope, *params;
};

// What goes back; palloc'd.
struct Made {
  char *url, *state;
  char state_hash[kSha256Bytes];
  char* verifier;
  size_t verifier_size;
  bool uses_pkce, wants_id_token;
};

const char* Utf8Argument(FunctionCallInfo fcinfo, int argument) {
  if (PG_ARGISNULL(argument)) return "";
  char* value = text_to_cstring(PG_GETARG_TEXT_PP(argument));
  return pg_server_to_any(value, static_cast<int>(strlen(value)), PG_UTF8);
}

const char* Utf8Json(FunctionCallInfo fcinfo, int argument) {
  Jsonb* json = PG_GETARG_JSONB_P(argument);
  char* value = JsonbToCString(nullptr, &json->root, VARSIZE(json));
  return pg_server_to_any(value, static_cast<int>(strlen(value)), PG_UTF8);
}

// RFC 6749 section 3.3: words between spaces.
bool HasWord(std::string_view words, std::string_view wanted) {
  while (!words.empty()) {
    const size_t end = std::min(words.find(' '), words.size());
    if (words.substr(0, end) == wanted) return true;
    words.remove_prefix(std::min(end + 1, words.size()));
  }
  return false;
}

Status ReadExtra(const char* json, AuthorizationParams* params) {
  const std::optional<SecretJson> object = ParseSecretJson(json);
  if (!object.has_value() || !object->is_object())
    return Error{ErrorCode::kInvalidArgument, "argument \"authorization_params\" must be a JSON object", ""};
  return ReadRequestParams(kParamsArgument, *object, params->extra);
}

Status SealVerifier(const AuthorizationParams& params, Made* made) {
  Result<Sha256Digest> digest = Sha256(params.state);
  if (!digest.ok()) return digest.error();
  memcpy(made->state_hash, digest->data(), kSha256Bytes);
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return ring.error();
  const std::string row = HexEncode(BytesOf(*digest));
  Result<std::string> sealed =
      Seal(**ring, SealedPlace{kAuthorizationPlace, row, kVerifierColumn}, params.code_verifier.view());
  if (!sealed.ok()) return sealed.error();
  made->verifier = CopyOut(*sealed);
  made->verifier_size = sealed->size();
  return Ok();
}

Status Make(const Wish& wish, Made* made) {
  Provider provider;
  provider.client_id = wish.client_id;
  Result<ProviderOptions> options = ParseProviderOptions(wish.options, Settings::allow_insecure_http);
  if (!options.ok()) return options.error();
  provider.options = std::move(*options);

  AuthorizationParams params;
  params.redirect_uri = wish.redirect_uri;
  params.scope = wish.scope;
  if (Status extra = ReadExtra(wish.params, &params); !extra.ok()) return extra;
  Result<Secret> verifier = MakeCodeVerifier();
  if (!verifier.ok()) return verifier.error();
  params.code_verifier = std::move(*verifier);
  Result<Secret> state = MakeState();
  if (!state.ok()) return state.error();
  params.state = state->view();
  // Without issuer and keys an id_token could not be verified, and is not asked for.
  params.nonce = HasWord(params.scope, "openid") && !provider.options.issuer.empty() && !provider.options.jwks_uri.empty();

  Result<AuthorizationUrl> url = BuildAuthorizationUrl(provider, params);
  if (!url.ok()) return url.error();
  made->url = CopyOut(url->url);
  made->state = CopyOut(params.state);
  made->uses_pkce = url->uses_pkce;
  made->wants_id_token = params.nonce;
  return SealVerifier(params, made);
}

}  // namespace

}  // namespace token_refresh

extern "C" Datum token_refresh_make_authorization(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  TupleDesc desc;
  if (get_call_result_type(fcinfo, nullptr, &desc) != TYPEFUNC_COMPOSITE) elog(ERROR, "token_refresh: no row type");
  const Wish wish = {Utf8Argument(fcinfo, 0), Utf8Json(fcinfo, 1), Utf8Argument(fcinfo, 2), Utf8Argument(fcinfo, 3),
                     Utf8Json(fcinfo, 4)};
  Made made = {};
  RunCpp([&] { return Make(wish, &made); });
  Datum values[] = {CStringGetTextDatum(made.url),
                    CStringGetTextDatum(made.state),
                    BytesDatum({made.state_hash, kSha256Bytes}),
                    BytesDatum({made.verifier, made.verifier_size}),
                    BoolGetDatum(made.uses_pkce),
                    BoolGetDatum(made.wants_id_token)};
  bool nulls[lengthof(values)] = {};
  PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
