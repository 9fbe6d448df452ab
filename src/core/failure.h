// What an unsuccessful answer means, and what may be said about it.
// Used by the engine; the mapping rules of a provider are data (ErrorRule).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace token_refresh {

// The words are those of the SQL contract; FailureName() gives them.
enum class FailureClass {
  kTransient,     // try again with backoff; nothing is known about the grant
  kRateLimited,   // the provider asks everybody to wait
  kReauth,        // the provider says, in so many words, that the grant is dead
  kClientConfig,  // our client registration is wrong; the grants may be alive
  kTooEarly,      // the provider refuses because the token is still too young
  kSuperseded,    // somebody stored other tokens meanwhile
  kLostResponse,  // as kReauth, after an earlier answer was lost on the way
};

std::string_view FailureName(FailureClass failure);
std::optional<FailureClass> ParseFailureName(std::string_view name);

// Maps an answer to a class. Every part that is set must match.
struct ErrorRule {
  std::optional<int> status;         // HTTP status
  std::string pointer;               // RFC 6901, into a JSON body; empty: not looked at
  std::optional<std::string> value;  // the text at pointer; a trailing * matches any rest
  FailureClass failure = FailureClass::kTransient;
};

// A failure that may be shown to anyone who may see the credential's status.
struct Failure {
  FailureClass failure = FailureClass::kTransient;
  std::string message;                    // scrubbed, at most kMaxFailureMessage bytes of valid UTF-8
  std::optional<int64_t> retry_after_us;  // from Retry-After, relative to the answer
};

constexpr size_t kMaxFailureMessage = 300;

// Makes foreign text fit to be shown: every occurrence of one of the secrets,
// also in escapes (percent encoding, form, JSON, HTML), and every run of 20 or more characters that looks like a token,
// becomes [redacted]; control characters and invalid UTF-8 become spaces; long text is cut.
std::string ScrubText(std::string_view text, const std::vector<std::string_view>& secrets);

}  // namespace token_refresh
