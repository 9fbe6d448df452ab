// The body of a provider's answer as an object, whatever the Content-Type says:
// JSON, or form encoding as some providers send, or XML where the options say so. For the reading of token responses.
#pragma once

#include <optional>
#include <string_view>

#include "core/provider_dialect.h"
#include "core/secret_json.h"

namespace token_refresh {

enum class BodyKind {
  kObject,  // fields holds it; the values of a form are strings
  kEmpty,
  kMarkup,      // HTML, or XML that was not to be expected: nothing that a token endpoint says
  kDamaged,     // JSON that breaks off or makes no sense from somewhere on; fields holds what stands before
  kTooDeep,     // nested deeper than kMaxJsonDepth
  kTooLarge,    // beyond kMaxResponseBytes
  kUnreadable,  // anything else
};

struct AnswerBody {
  BodyKind kind = BodyKind::kUnreadable;
  SecretJson fields;
  // The answer as it came, when its fields have been put elsewhere (answer_dialect.h).
  std::optional<SecretJson> as_sent = std::nullopt;

  const SecretJson& document() const { return as_sent.has_value() ? *as_sent : fields; }
};

// U+FFFD, which no usable token holds, for each byte that is not UTF-8.
SecretString ReplaceInvalidUtf8(std::string_view text);

// Bytes that are not UTF-8 are read as U+FFFD, so that a name in another
// encoding does not cost the tokens that stand beside it. JSON is read as tolerantly
// as ReadTolerantJson does, also behind a byte order mark or a script guard.
AnswerBody ReadAnswerBody(std::string_view body, AnswerFormat format = AnswerFormat::kAuto);

}  // namespace token_refresh
