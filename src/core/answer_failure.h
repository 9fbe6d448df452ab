// What a provider's refusal means (RFC 6749 section 5.2 and what the field makes
// of it), and the words in which it is reported. Used by ReadTokenResponse.
#pragma once

#include <string_view>
#include <vector>

#include "core/answer_body.h"
#include "core/failure.h"
#include "core/http.h"
#include "core/provider.h"

namespace token_refresh {

// The answer holds a member that says that it failed: an "error", or "ok": false.
bool SaysError(const SecretJson& answer);

// It says invalid_client (RFC 6749 section 5.2), which comes before anything else is looked at, whatever the status.
bool RefusesClient(const AnswerBody& body);

// For an answer that arrived and is not a success. The provider's error rules are
// tried first, then the built-in ones. Whatever a rule says, only a body that was
// understood, with a status other than 429 and 5xx, can yield kReauth.
// complaint says what is wrong with it where the answer itself does not.
// The message holds none of sent, nor any token of the body.
Failure ReadFailure(const Provider& provider, const HttpResponse& response, const AnswerBody& body,
                    std::string_view complaint, const std::vector<std::string_view>& sent, Micros now);

}  // namespace token_refresh
