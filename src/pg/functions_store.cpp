// SQL function store_credential: seals what a token endpoint answered and writes it,
// with the caller's privileges, under provider, subject and label.
#include "core/captured_fields.h"
#include "core/renewal_token.h"
#include "core/token_response.h"
#include "pg/boundary.h"
#include "pg/credential_write.h"
#include "pg/provider_cache.h"

extern "C" {
#include "mb/pg_wchar.h"

PG_FUNCTION_INFO_V1(token_refresh_store_credential);
}

namespace token_refresh {

namespace {

// Room for token_type, and for what stands in place of a refresh token, which may be longer than the whole answer.
constexpr size_t kDefaultsBytes = 64;

// What the application hands over, and what of its provider decides how it is stored.
struct StoredAnswer {
  Jsonb* token_response;
  RefreshWith refresh_with;
  const char* options;  // effective ones; null: nothing is captured
};

void SealAnswer(void* source, const char* row_key, CredentialColumns* sealed) {
  const auto* stored = static_cast<const StoredAnswer*>(source);
  char* answer = JsonbToCString(nullptr, &stored->token_response->root, VARSIZE(stored->token_response));
  AllocateCredentialColumns(strlen(answer) + kDefaultsBytes, sealed);
  PlainError error;
  const bool ok = CallCpp(error, [&]() -> Status {
    const Micros now = FromTimestamp(GetCurrentTimestamp());
    Result<TokenSet> tokens = ParseStoredTokens(answer, now, stored->refresh_with != RefreshWith::kNothing);
    if (!tokens.ok()) return tokens.error();
    SetRenewalToken(stored->refresh_with, *tokens);
    if (stored->options != nullptr) {
      Result<ProviderOptions> options = ParseProviderOptions(stored->options, true);
      if (!options.ok()) return options.error();
      tokens->captured = CaptureFields(*options, answer);
    }
    return SealTokens(*tokens, now, row_key, sealed);
  });
  explicit_bzero(answer, strlen(answer));
  if (!ok) RaisePlainError(error);
}

// As the constraints of the table, whose error would quote the row instead of naming the argument.
void CheckLength(const text* value, const char* name, int least, int most) {
  const int length = pg_mbstrlen_with_len(VARDATA_ANY(value), static_cast<int>(VARSIZE_ANY_EXHDR(value)));
  if (length < least || length > most)
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("argument \"%s\" must be %d to %d characters long", name, least, most)));
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
  const KnownProvider* known = FindProvider(provider);
  if (known == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("unknown provider \"%s\"", provider),
                    errhint("Create it with token_refresh.create_provider().")));
  CheckLength(PG_GETARG_TEXT_PP(1), "subject", 1, 1000);
  CheckLength(PG_GETARG_TEXT_PP(3), "label", 0, 200);
  StoredAnswer stored = {PG_GETARG_JSONB_P(2), known->refresh_with, nullptr};
  if (known->captures) stored.options = FetchProviderOptions(provider);
  if (SPI_connect() != SPI_OK_CONNECT) elog(ERROR, "token_refresh: SPI_connect failed");
  const int64_t id = WriteCredential({PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(3)}, Grant::kSame,
                                     SealAnswer, &stored, nullptr);
  SPI_finish();
  PG_RETURN_INT64(id);
}
