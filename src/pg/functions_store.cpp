// SQL function store_credential: seals what a token endpoint answered and writes it,
// with the caller's privileges, under provider, subject and label.
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

// Room for token_type, which may be the default and so longer than the whole answer.
constexpr size_t kDefaultsBytes = 16;

void SealAnswer(void* source, const char* row_key, CredentialColumns* sealed) {
  Jsonb* token_response = static_cast<Jsonb*>(source);
  char* answer = JsonbToCString(nullptr, &token_response->root, VARSIZE(token_response));
  AllocateCredentialColumns(strlen(answer) + kDefaultsBytes, sealed);
  PlainError error;
  const bool ok = CallCpp(error, [&]() -> Status {
    const Micros now = FromTimestamp(GetCurrentTimestamp());
    Result<TokenSet> tokens = ParseStoredTokens(answer, now);
    if (!tokens.ok()) return tokens.error();
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
  if (FindProvider(provider) == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("unknown provider \"%s\"", provider),
                    errhint("Create it with token_refresh.create_provider().")));
  CheckLength(PG_GETARG_TEXT_PP(1), "subject", 1, 1000);
  CheckLength(PG_GETARG_TEXT_PP(3), "label", 0, 200);
  if (SPI_connect() != SPI_OK_CONNECT) elog(ERROR, "token_refresh: SPI_connect failed");
  const int64_t id = WriteCredential({PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(3)}, SealAnswer,
                                     PG_GETARG_JSONB_P(2), nullptr);
  SPI_finish();
  PG_RETURN_INT64(id);
}
