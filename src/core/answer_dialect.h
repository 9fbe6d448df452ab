// What the options say of a provider's answers, put to use: where the fields are, what is a success, when a token
// expires. Used by ReadTokenResponse.
#pragma once

#include "core/answer_body.h"
#include "core/clock.h"
#include "core/provider_dialect.h"
#include "core/token_response.h"

namespace token_refresh {

// Puts the fields where RFC 6749 has them; body.as_sent then holds the answer as it came. A field that a pointer
// names is looked for nowhere else, except those of an error.
void ArrangeFields(const AnswerDialect& dialect, AnswerBody& body);

// The part of that which holds for the fields of secondary tokens: they have the standard names, in their own place.
void SetLifetimesInSeconds(const AnswerDialect& dialect, SecretJson& fields);

bool IsSuccessStatus(const AnswerDialect& dialect, int status);

// Whether success_pointer and success_value hold. True without them, and for an answer that was not understood:
// that is judged by what can be read of it.
bool SaysSuccess(const AnswerDialect& dialect, const AnswerBody& body);

// Expiries other than expires_in: an absolute one in the answer, or that of the access token itself.
void ReadOtherExpiry(const AnswerDialect& dialect, const SecretJson& fields, Micros now, TokenSet& tokens);

}  // namespace token_refresh
