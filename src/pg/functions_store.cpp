// SQL function store_credential: seals what a token endpoint answered and writes it,
// with the caller's privileges, under provider, subject and label.
#include "core/stored_answer.h"
#include "core/token_response.h"
#include "pg/arguments.h"
#include "pg/boundary.h"
#include "pg/bytes.h"
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
constexpr int kMostSecondary = 16;

// What the application hands over.
struct StoredAnswer {
  Jsonb* token_response;
  const char* options;  // of its provider, as JSON; null: it has no dialect
  RefreshTiming timing;
  OwnClient client;
  int part;             // of several tokens in it; 0: the first
};

Result<TokenSet> ReadTokens(const StoredAnswer& stored, const char* answer, Micros now) {
  if (stored.options == nullptr) return ParseStoredTokens(answer, now);
  Result<ProviderOptions> options = ParseProviderOptions(stored.options, true);
  if (!options.ok()) return options.error();
  return ReadStoredAnswer(*options, answer, now);
}

Result<TokenSet> ReadAnswer(const StoredAnswer& stored, const char* answer, Micros now) {
  Result<TokenSet> tokens = ReadTokens(stored, answer, now);
  if (tokens.ok()) AssumeLifetime(stored.timing, *tokens);
  return tokens;
}

// use(tokens, now) with what is handed over; C++ code.
template <class Use>
void WithAnswer(const StoredAnswer& stored, Use use) {
  char* answer = JsonbToCString(nullptr, &stored.token_response->root, VARSIZE(stored.token_response));
  PlainError error;
  const bool ok = CallCpp(error, [&]() -> Status {
    const Micros now = FromTimestamp(GetCurrentTimestamp());
    Result<TokenSet> tokens = ReadAnswer(stored, answer, now);
    return tokens.ok() ? use(*tokens, now) : Status(tokens.error());
  });
  explicit_bzero(answer, strlen(answer));
  if (!ok) RaisePlainError(error);
}

void SealAnswer(void* source, const char* row_key, CredentialColumns* sealed) {
  const auto* stored = static_cast<const StoredAnswer*>(source);
  AllocateCredentialColumns(VARSIZE(stored->token_response) + kDefaultsBytes, stored->client, sealed);
  WithAnswer(*stored, [&](const TokenSet& tokens, Micros now) {
    const TokenSet& part = stored->part == 0 ? tokens : tokens.secondary[stored->part - 1].tokens;
    return SealTokens(part, stored->client, now, row_key, sealed);
  });
}

// The labels of the other tokens in it, palloc'd; returns how many.
int FindSecondary(const StoredAnswer& stored, char** labels) {
  int count = 0;
  WithAnswer(stored, [&](const TokenSet& tokens, Micros) {
    for (const SecondaryTokens& secondary : tokens.secondary)
      if (count < kMostSecondary) labels[count++] = CopyOut(secondary.label);
    return Ok();
  });
  return count;
}

// One of the two would be lost.
void CheckLabels(Datum label, char** others, int count) {
  const char* own = TextDatumGetCString(label);
  for (int i = 0; i < count; i++)
    if (strcmp(own, others[i]) == 0)
      ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                      errmsg("argument \"label\" must not be \"%s\": other tokens of the answer have that label", own),
                      errhint("See the provider's option \"secondary_tokens\".")));
}

int64_t Store(const CredentialName& name, StoredAnswer* stored) {
  char* labels[kMostSecondary];
  const int others = stored->options != nullptr ? FindSecondary(*stored, labels) : 0;
  CheckLabels(name.label, labels, others);
  const int64_t id = WriteCredential(name, Grant::kSame, SealAnswer, stored, nullptr);
  for (int i = 0; i < others; i++) {
    stored->part = i + 1;
    WriteCredential({name.provider, name.subject, CStringGetTextDatum(labels[i])}, Grant::kSame, SealAnswer, stored,
                    nullptr);
  }
  return id;
}

// As the constraints of the table, whose error would quote the row instead of naming the argument.
void CheckLength(const text* value, const char* name, int least, int most) {
  const int length = pg_mbstrlen_with_len(VARDATA_ANY(value), static_cast<int>(VARSIZE_ANY_EXHDR(value)));
  if (length < least || length > most)
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("argument \"%s\" must be %d to %d characters long", name, least, most)));
}

// No argument: nothing.
std::string_view OptionalText(FunctionCallInfo fcinfo, int argument, const char* name, int most) {
  if (PG_ARGISNULL(argument)) return {};
  const text* value = PG_GETARG_TEXT_PP(argument);
  CheckLength(value, name, 1, most);
  return View(value);
}

OwnClient ClientArguments(FunctionCallInfo fcinfo) {
  const OwnClient client = {OptionalText(fcinfo, 4, "client_id", 1000), OptionalText(fcinfo, 5, "client_secret", 10000)};
  if (client.id.empty() && !client.secret.empty())
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("argument \"client_secret\" needs \"client_id\""),
                    errhint("The secret of the provider's own client belongs into create_provider().")));
  return client;
}

}  // namespace

}  // namespace token_refresh

extern "C" Datum token_refresh_store_credential(PG_FUNCTION_ARGS) {
  using namespace token_refresh;
  static const char* const names[] = {"provider", "subject", "token_response", "label"};
  for (int i = 0; i < 4; i++) RequireArgument(fcinfo, i, names[i]);
  char* provider = text_to_cstring(PG_GETARG_TEXT_PP(0));
  const KnownProvider* known = FindProvider(provider);
  if (known == nullptr)
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("unknown provider \"%s\"", provider),
                    errhint("Create it with token_refresh.create_provider().")));
  CheckLength(PG_GETARG_TEXT_PP(1), "subject", 1, 1000);
  CheckLength(PG_GETARG_TEXT_PP(3), "label", 0, 200);
  StoredAnswer stored = {PG_GETARG_JSONB_P(2), known->has_dialect ? FetchProviderOptions(provider) : nullptr,
                         known->timing, ClientArguments(fcinfo), 0};
  if (SPI_connect() != SPI_OK_CONNECT) elog(ERROR, "token_refresh: SPI_connect failed");
  const int64_t id = Store({PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(3)}, &stored);
  SPI_finish();
  PG_RETURN_INT64(id);
}
