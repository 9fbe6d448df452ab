#include "pg/park_secondary.h"

#include "core/refresh_policy.h"
#include "core/sealed_box.h"
#include "pg/boundary.h"
#include "pg/bytes.h"
#include "pg/catalog.h"
#include "pg/keys.h"
#include "pg/provider_cache.h"
#include "pg/seal_outcomes.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"

namespace token_refresh {

namespace {

// So many at a time; how long they may take says who tries them.
constexpr int kMostRetried = 100;

// Whether the row is one that a refresh of its own could have been asked for, and is not; and what is parked for it.
Statement find_row = {
    "SELECT s.id, s.generation, s.row_key, c.refresh_token, c.refresh_token IS NOT NULL"
    "  AND c.status NOT IN ('needs_reauth', 'disconnected') AND s.status NOT IN ('needs_reauth', 'disconnected')"
    "  AND coalesce(c.client_id, '') = $4"
    "  AND NOT EXISTS (SELECT FROM token_refresh.in_flight f WHERE s.id = ANY (f.schedule_ids)),"
    " coalesce(p.issued_at > $5, false)"
    " FROM token_refresh.credential c JOIN token_refresh.schedule s ON s.token_table = 1 AND s.row_key = c.id::text"
    " LEFT JOIN token_refresh.parked_result p ON p.schedule_id = s.id"
    " WHERE c.provider = $1 AND c.subject = $2 AND c.label = $3",
    5,
    {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID},
    nullptr};

// It must not come too late for what is newer and has none.
Statement refresh_token_waits = {
    "SELECT FROM token_refresh.parked_result o WHERE o.token_table = 0 AND o.provider = $1 AND o.subject = $2"
    " AND o.label = $3 AND o.asked_at < $4 AND o.refresh_token IS NOT NULL",
    4,
    {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID},
    nullptr};

Statement next_id = {"SELECT nextval('token_refresh.schedule_id_seq')", 0, {}, nullptr};

Statement find_due_at = {
    "SELECT token_refresh._due_at($1, NULL, $2, $3, $4)",
    4,
    {TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID},
    nullptr};

// However often a table says no, no more than the newest is kept of a credential; and one with a refresh token, if the
// newest has none.
Statement drop_older = {
    "WITH older AS (DELETE FROM token_refresh.parked_result WHERE schedule_id IN"
    "  (SELECT o.schedule_id FROM token_refresh.parked_result o WHERE o.token_table = 0 AND o.provider = $1"
    "   AND o.subject = $2 AND o.label = $3 AND o.asked_at <= $4 AND ($5 OR o.refresh_token IS NULL)"
    "   FOR UPDATE SKIP LOCKED) RETURNING schedule_id)"
    " INSERT INTO token_refresh.audit_event (event, provider, token_table, subject, label, actor)"
    " SELECT 'superseded', $1, 1, $2, $3, 'refresher' FROM older",
    5,
    {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, BOOLOID},
    nullptr};

Statement park_by_name = {
    "INSERT INTO token_refresh.parked_result (schedule_id, token_table, provider, subject, label, access_token,"
    " refresh_token, client_id, client_secret, token_type, scope, captured, issued_at, expires_at, refresh_expires_at,"
    " asked_at, reason, existing_only, retry_at) VALUES ($1, 0, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::jsonb, $12,"
    " $13, $14, $15, $16, $17, clock_timestamp() + interval '1 second')",
    17,
    {INT8OID, TEXTOID, TEXTOID, TEXTOID, BYTEAOID, BYTEAOID, TEXTOID, BYTEAOID, TEXTOID, TEXTOID, TEXTOID,
     TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, BOOLOID},
    nullptr};

// Those that have waited longest come first, so that many which are rejected again and again keep nobody from his turn.
Statement read_by_name = {
    "SELECT schedule_id, provider, subject, label, access_token, refresh_token, client_id, client_secret, token_type,"
    " scope, captured::text, issued_at, expires_at, refresh_expires_at, asked_at, existing_only"
    " FROM token_refresh.parked_result WHERE token_table = 0 AND retry_at <= $1"
    " AND (parked_at >= $2 OR $2 < $1 - interval '1 minute') ORDER BY retry_at, asked_at LIMIT $3"
    " FOR UPDATE SKIP LOCKED",
    3,
    {TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID},
    nullptr};

Statement delete_by_name = {"DELETE FROM token_refresh.parked_result WHERE schedule_id = $1", 1, {INT8OID}, nullptr};

// C++ code: raises nothing.
bytea* CopyBytesOut(std::string_view bytes) {
  char* copy = static_cast<char*>(palloc_extended(VARHDRSZ + bytes.size(), MCXT_ALLOC_NO_OOM));
  if (copy == nullptr) throw std::bad_alloc();
  SET_VARSIZE(copy, VARHDRSZ + bytes.size());
  memcpy(VARDATA(copy), bytes.data(), bytes.size());
  return reinterpret_cast<bytea*>(copy);
}

char* CopyOrNull(const std::string& text) { return text.empty() ? nullptr : CopyOut(text); }

// Seals for the parked result of one id.
class ParkedSealer {
 public:
  ParkedSealer(const KeyRing& ring, int64_t id) : ring_(ring), key_(std::to_string(id)) {}
  // Nothing where there is nothing.
  Status Into(bytea** to, const char* column, std::string_view secret) const {
    if (secret.empty()) return Ok();
    Result<std::string> envelope = Seal(ring_, {kParkedPlace, key_, column}, secret);
    if (!envelope.ok()) return envelope.error();
    *to = CopyBytesOut(*envelope);
    return Ok();
  }

 private:
  const KeyRing& ring_;
  std::string key_;
};

ParkedTime Later(Micros from, const std::optional<Micros>& time) {
  return {time.has_value(), ToTimestamp(from + time.value_or(0))};
}

Status SealParked(const ParkedSealer& sealer, const TokenSet& tokens, const OwnClient& client, Micros given_at,
                  ParkedTokens* parked) {
  Status status = sealer.Into(&parked->access_token, "access_token", tokens.access_token.view());
  if (status.ok()) status = sealer.Into(&parked->refresh_token, "refresh_token", tokens.refresh_token.view());
  if (status.ok()) status = sealer.Into(&parked->client_secret, "client_secret", client.secret);
  parked->token_type = CopyOut(tokens.token_type);
  parked->scope = CopyOrNull(tokens.scope);
  parked->captured = CopyOrNull(tokens.captured);
  parked->issued_at = Later(given_at, 0);
  parked->expires_at = Later(given_at, tokens.expires_in);
  parked->refresh_expires_at = Later(given_at, tokens.refresh_expires_in);
  return status;
}

Status SealForRowBeside(const GivenSecondary& given, const SecondaryRow& row, ParkedResult* result) {
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return ring.error();
  const ParkedSealer sealer(**ring, row.schedule_id);
  Result<Secret> replaced = Open(**ring, {kCredentialPlace, row.row_key, "refresh_token"}, View(row.refresh_token));
  if (!replaced.ok()) return replaced.error();
  result->replaces = CopyBytesOut(StoredDigest(View(row.refresh_token)));
  Status status = sealer.Into(&result->replaces_refresh_token, "replaces_refresh_token", replaced->view());
  if (!status.ok()) return status;
  return WithTokens(given, [&](const TokenSet& tokens, const OwnClient&) {
    Status sealed = SealParked(sealer, tokens, {}, given.given_at, &result->tokens);
    // One that the row holds already would pass for a reason to overwrite what others store beside it.
    if (tokens.refresh_token.Equals(replaced->view())) result->tokens.refresh_token = nullptr;
    return sealed;
  });
}

// While they are parked nobody asks when they expire.
void AssumeExpiry(const GivenSecondary& given, ParkedResult* result) {
  const KnownProvider* provider = FindProvider(text_to_cstring(DatumGetTextPP(given.name.provider)));
  if (provider == nullptr || !provider->timing.introspects || result->tokens.expires_at.known) return;
  result->expiry_assumed = true;
  result->tokens.expires_at = Later(given.given_at, AssumedLifetime(provider->timing));
}

void ParkBeside(const GivenSecondary& given, const SecondaryRow& row, const char* reason) {
  ParkedResult result = {};
  result.schedule_id = row.schedule_id;
  result.generation = row.generation;
  result.row_key = row.row_key;
  RunCpp([&] { return SealForRowBeside(given, row, &result); });
  AssumeExpiry(given, &result);
  Datum values[] = {given.name.provider, TimestampTzGetDatum(result.tokens.issued_at.at),
                    TimestampTzGetDatum(result.tokens.expires_at.at),
                    TimestampTzGetDatum(result.tokens.refresh_expires_at.at)};
  const char nulls[] = {' ', ' ', result.tokens.expires_at.known ? ' ' : 'n',
                        result.tokens.refresh_expires_at.known ? ' ' : 'n', '\0'};
  Execute(&find_due_at, values, false, nulls);
  bool is_null;
  Datum due_at = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null);
  result.due_at = {!is_null, is_null ? 0 : DatumGetTimestampTz(due_at)};
  WriteParkedResult(result, reason);
}

char* GetText(HeapTuple tuple, TupleDesc desc, int column) { return SPI_getvalue(tuple, desc, column); }

bytea* GetBytes(HeapTuple tuple, TupleDesc desc, int column) {
  bool is_null;
  Datum value = SPI_getbinval(tuple, desc, column, &is_null);
  return is_null ? nullptr : DatumGetByteaPCopy(value);
}

ParkedTime GetTime(HeapTuple tuple, TupleDesc desc, int column) {
  bool is_null;
  Datum value = SPI_getbinval(tuple, desc, column, &is_null);
  return {!is_null, is_null ? 0 : DatumGetTimestampTz(value)};
}

GivenSecondary ReadParked(HeapTuple tuple, TupleDesc desc) {
  bool is_null;
  auto* tokens = static_cast<ParkedTokens*>(palloc0(sizeof(ParkedTokens)));
  tokens->access_token = GetBytes(tuple, desc, 5);
  tokens->refresh_token = GetBytes(tuple, desc, 6);
  tokens->client_secret = GetBytes(tuple, desc, 8);
  tokens->token_type = GetText(tuple, desc, 9);
  tokens->scope = GetText(tuple, desc, 10);
  tokens->captured = GetText(tuple, desc, 11);
  tokens->issued_at = GetTime(tuple, desc, 12);
  tokens->expires_at = GetTime(tuple, desc, 13);
  tokens->refresh_expires_at = GetTime(tuple, desc, 14);
  GivenSecondary given = {};
  given.name = {CStringGetTextDatum(GetText(tuple, desc, 2)), CStringGetTextDatum(GetText(tuple, desc, 3)),
                CStringGetTextDatum(GetText(tuple, desc, 4))};
  given.given_at = FromTimestamp(tokens->issued_at.at);
  given.asked_at = FromTimestamp(GetTime(tuple, desc, 15).at);
  given.existing_only = DatumGetBool(SPI_getbinval(tuple, desc, 16, &is_null));
  given.parked = tokens;
  given.parked_id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &is_null));
  given.client_id = GetText(tuple, desc, 7);
  return given;
}

}  // namespace

bool MustWait(const GivenSecondary& given) {
  const bool brings_one =
      given.tokens != nullptr ? !given.tokens->refresh_token.empty() : given.parked->refresh_token != nullptr;
  if (brings_one) return false;
  Datum values[] = {given.name.provider, given.name.subject, given.name.label,
                    TimestampTzGetDatum(ToTimestamp(given.asked_at))};
  return Execute(&refresh_token_waits, values, false) > 0;
}

void FindSecondaryRow(const GivenSecondary& given, SecondaryRow* row) {
  Datum values[] = {given.name.provider, given.name.subject, given.name.label, TextDatum(ClientIdOf(given)),
                    TimestampTzGetDatum(ToTimestamp(given.asked_at))};
  if (Execute(&find_row, values, false) == 0) return;
  HeapTuple tuple = SPI_tuptable->vals[0];
  TupleDesc desc = SPI_tuptable->tupdesc;
  bool is_null;
  row->found = true;
  row->schedule_id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &is_null));
  row->generation = DatumGetInt64(SPI_getbinval(tuple, desc, 2, &is_null));
  row->row_key = SPI_getvalue(tuple, desc, 3);
  Datum token = SPI_getbinval(tuple, desc, 4, &is_null);
  row->refresh_token = is_null ? nullptr : DatumGetByteaPCopy(token);
  row->usable = DatumGetBool(SPI_getbinval(tuple, desc, 5, &is_null));
  row->newer_parked = DatumGetBool(SPI_getbinval(tuple, desc, 6, &is_null));
}

bool ParkBesideRow(const GivenSecondary& given, const SecondaryRow& row, const char* reason) {
  CaughtError error;
  return row.usable && Attempt(&error, [&] { ParkBeside(given, row, reason); });
}

void ParkByName(const GivenSecondary& given, const SecondaryRow& row, const char* reason) {
  Datum older[] = {given.name.provider, given.name.subject, given.name.label,
                   TimestampTzGetDatum(ToTimestamp(given.asked_at)),
                   BoolGetDatum(!given.tokens->refresh_token.empty())};
  Execute(&drop_older, older, false);
  Execute(&next_id, nullptr, false);
  bool is_null;
  const int64_t id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
  ParkedTokens sealed = {};
  RunCpp([&]() -> Status {
    Result<const KeyRing*> ring = LoadKeyRing();
    if (!ring.ok()) return ring.error();
    return SealParked(ParkedSealer(**ring, id), *given.tokens, given.client, given.given_at, &sealed);
  });
  char nulls[18] = "                 ";
  auto text_or = [&](int parameter, const char* text) -> Datum {
    nulls[parameter - 1] = text == nullptr ? 'n' : ' ';
    return text == nullptr ? 0 : CStringGetTextDatum(text);
  };
  auto bytes_or = [&](int parameter, bytea* bytes) {
    nulls[parameter - 1] = bytes == nullptr ? 'n' : ' ';
    return PointerGetDatum(bytes);
  };
  auto time_or = [&](int parameter, const ParkedTime& time) {
    nulls[parameter - 1] = time.known ? ' ' : 'n';
    return TimestampTzGetDatum(time.at);
  };
  nulls[6] = given.client.id.empty() ? 'n' : ' ';
  Datum values[] = {Int64GetDatum(id),
                    given.name.provider,
                    given.name.subject,
                    given.name.label,
                    bytes_or(5, sealed.access_token),
                    bytes_or(6, sealed.refresh_token),
                    TextDatum(given.client.id),
                    bytes_or(8, sealed.client_secret),
                    text_or(9, sealed.token_type),
                    text_or(10, sealed.scope),
                    text_or(11, sealed.captured),
                    time_or(12, sealed.issued_at),
                    time_or(13, sealed.expires_at),
                    time_or(14, sealed.refresh_expires_at),
                    TimestampTzGetDatum(ToTimestamp(given.asked_at)),
                    CStringGetTextDatum(reason),
                    BoolGetDatum(given.existing_only || row.found)};
  Execute(&park_by_name, values, false, nulls);
}

int ReadParkedByName(TimestampTz now, TimestampTz started_at, GivenSecondary** parked) {
  Datum values[] = {TimestampTzGetDatum(now), TimestampTzGetDatum(started_at), Int32GetDatum(kMostRetried)};
  const int count = static_cast<int>(Execute(&read_by_name, values, false));
  *parked = static_cast<GivenSecondary*>(palloc(sizeof(GivenSecondary) * Max(count, 1)));
  for (int i = 0; i < count; i++)
    new (&(*parked)[i]) GivenSecondary(ReadParked(SPI_tuptable->vals[i], SPI_tuptable->tupdesc));
  return count;
}

void DeleteParkedByName(int64_t id) {
  Datum values[] = {Int64GetDatum(id)};
  Execute(&delete_by_name, values, false);
}

}  // namespace token_refresh
