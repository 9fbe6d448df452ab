// The SQL of sign-ins: of the row that begin_authorization has left, and of what becomes of it. Called inside
// RunPostgres; may raise.
#pragma once

#include <cstdint>
#include <string_view>

#include "pg/credential_write.h"
#include "pg/postgres_api.h"

namespace token_refresh {

constexpr const char* kAuthorizationPlace = "token_refresh.authorization_request";
constexpr const char* kVerifierColumn = "code_verifier";

// What _take_authorization says; but for result, only when that is "taken".
struct TakenAuthorization {
  char result[24];
  char *provider, *redirect_uri;
  bytea *code_verifier, *state_hash;
  bool sends_verifier, wants_id_token, has_subject, has_max_age;
  int32_t max_age;  // seconds
};

// expected_provider, iss: null when the application does not say. caller: id of its request. What it returns lives in
// context.
void TakeAuthorization(MemoryContext context, int64_t id, const char* expected_provider, const char* iss,
                       int64_t caller, TakenAuthorization* taken);
// Once, when a refresher begins: notes that what its predecessor had under way was interrupted.
void ForgetUnfinished();

// Stores the credential, and those that came with it. claims: JSON in UTF-8; empty: none.
// undefined_object: the row has gone, as with its provider. owner_known: it was not the claims, if it raises.
void FinishAccepted(int64_t id, std::string_view claims, const GivenTokens& given, bool* owner_known);

// Tokens that were given although the sign-in is refused; sealed for kAuthorizationPlace, the id, and the column
// access_token or refresh_token. Empty: none.
struct RefusedTokens {
  std::string_view access_token, refresh_token;
};
// failure: a word; message: a sentence in UTF-8.
void FinishRefused(int64_t id, std::string_view failure, std::string_view message, const RefusedTokens& tokens);

}  // namespace token_refresh
