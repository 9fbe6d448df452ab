#include "pg/api_token_check.h"

#include "core/api_scope.h"
#include "core/api_token.h"
#include "pg/boundary.h"
#include "pg/bytes.h"
#include "pg/imported_prefixes.h"

namespace token_refresh {

namespace {

bool IsOurs(std::string_view token) {
  if (token.size() > kMaxApiTokenChars) return false;
  bool ours = false;
  RunCpp([&]() -> Status {
    Result<bool> recognised = IsApiToken(token);
    if (!recognised.ok()) return recognised.error();
    ours = *recognised;
    return Ok();
  });
  return ours;
}

bool MayExist(std::string_view token) {
  return IsOurs(token) || (token.size() <= kMaxForeignTokenChars && !token.empty() && HasImportedPrefix(token));
}

bytea* Hash(std::string_view token) {
  bytea* hash = AllocateBytes(kSha256Bytes);
  RunCpp([&]() -> Status {
    Result<Sha256Digest> digest = HashApiToken(token);
    if (!digest.ok()) return digest.error();
    memcpy(VARDATA(hash), digest->data(), kSha256Bytes);
    return Ok();
  });
  return hash;
}

// Under REPEATABLE READ a revocation counts from its COMMIT on, too.
bool Find(text* token, bool fresh, ApiTokenRow* row) {
  return FetchApiToken(Hash(View(token)), fresh || IsolationUsesXactSnapshot(), row);
}

}  // namespace

ApiTokenVerdict JudgeApiToken(const ApiTokenRow& row) {
  if (row.revoked) return ApiTokenVerdict::kRevoked;
  const TimestampTz now = GetCurrentTimestamp();
  // One that has expired within its grace period is no more than expired, for ever.
  const bool retired = row.handed_over && row.retires_at < row.expires_at;
  if (retired && row.retires_at <= now) return ApiTokenVerdict::kReused;
  return row.expires_at <= now ? ApiTokenVerdict::kExpired : ApiTokenVerdict::kValid;
}

TimestampTz ApiTokenEnd(const ApiTokenRow& row) {
  return row.handed_over ? Min(row.retires_at, row.expires_at) : row.expires_at;
}

void CheckApiToken(text* token, bool fresh, CheckedToken* checked) {
  *checked = {};
  checked->verdict = ApiTokenVerdict::kMissing;
  if (token == nullptr) return;
  checked->verdict = ApiTokenVerdict::kMalformed;
  if (!MayExist(View(token))) return;
  checked->verdict = ApiTokenVerdict::kUnknown;
  if (!Find(token, fresh, &checked->row)) return;
  checked->verdict = JudgeApiToken(checked->row);
  checked->until = ApiTokenEnd(checked->row);
}

const char* VerdictMessage(ApiTokenVerdict verdict) {
  switch (verdict) {
    case ApiTokenVerdict::kMissing:
      return "no token was given";
    case ApiTokenVerdict::kMalformed:
      return "the token is malformed";
    case ApiTokenVerdict::kUnknown:
      return "the token is unknown";
    case ApiTokenVerdict::kRevoked:
      return "the token has been revoked";
    case ApiTokenVerdict::kExpired:
      return "the token has expired";
    case ApiTokenVerdict::kReused:
      return "the token was replaced and its grace period is over; all of its family are revoked";
    case ApiTokenVerdict::kValid:
      break;
  }
  return nullptr;
}

bool CoversScope(const ApiTokenRow& row, text* required) {
  if (required == nullptr) return true;
  ArrayIterator scopes = array_create_iterator(row.scope, 0, nullptr);
  Datum scope;
  bool is_null;
  bool covered = false;
  while (!covered && array_iterate(scopes, &scope, &is_null))
    covered = !is_null && ScopeCovers(View(DatumGetTextPP(scope)), View(required));
  array_free_iterator(scopes);
  return covered;
}

}  // namespace token_refresh
