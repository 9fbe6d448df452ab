#include "core/token_response.h"

#include <utility>

#include "core/answer_body.h"
#include "core/answer_dialect.h"
#include "core/answer_failure.h"
#include "core/captured_fields.h"
#include "core/token_fields.h"

namespace token_refresh {
namespace {

constexpr std::string_view kRefreshTokenKept = "; its refresh token is kept";

bool IsRedirect(int status) { return status / 100 == 3; }

Failure TransportFailed(const HttpResponse& response, const std::vector<std::string_view>& sent) {
  const std::string_view reason =
      response.failure_message.empty() ? std::string_view("no answer") : std::string_view(response.failure_message);
  return {FailureClass::kTransient, ScrubText(reason, sent), std::nullopt};
}

// What keeps an answer with a success status from being one; empty: nothing.
std::string_view FindDefect(const SecretJson& answer) {
  const SecretJson* access_token = FindPresent(answer, "access_token");
  if (access_token == nullptr) return "the answer holds no access token";
  const std::optional<std::string_view> text = TextOf(*access_token);
  if (!text.has_value()) return "the access token in the answer is not text";
  if (text->empty()) return "the access token in the answer is empty";
  if (!IsUsableToken(*text)) return "the access token in the answer holds control characters or invalid UTF-8";
  return {};
}

// An unusable refresh token is no reason to lose the access token beside it.
Secret ReadRefreshToken(const SecretJson& answer, TokenSet& tokens) {
  const SecretJson* value = FindPresent(answer, "refresh_token");
  if (value == nullptr) return {};
  const std::optional<std::string_view> text = TextOf(*value);
  if (!text.has_value()) {
    tokens.warnings.push_back("refresh_token is " + std::string(JsonTypeName(*value)) + "; ignored");
    return {};
  }
  if (text->empty()) return {};
  if (!IsUsableToken(*text)) {
    tokens.warnings.push_back("refresh_token holds control characters or invalid UTF-8; ignored");
    return {};
  }
  return Secret(*text);
}

// It is read again by those who verify it.
Secret ReadIdToken(const SecretJson& answer) {
  const SecretJson* value = FindPresent(answer, "id_token");
  return value == nullptr ? Secret() : Secret(TextOf(*value).value_or(std::string_view()));
}

TokenSet ReadObject(const SecretJson& answer, bool has_access_token) {
  TokenSet tokens;
  if (has_access_token) tokens.access_token = Secret(*TextOf(*FindMember(answer, "access_token")));
  tokens.refresh_token = ReadRefreshToken(answer, tokens);
  tokens.id_token = ReadIdToken(answer);
  ReadTokenDetails(answer, tokens);
  return tokens;
}

// A credential that has once come as one of the others may find its tokens in their place again.
void TakeOwnFields(const AnswerDialect& dialect, std::string_view label, AnswerBody& body) {
  for (const SecondaryTokenOption& option : dialect.secondary_tokens) {
    if (option.label != label) continue;
    const SecretJson* own = ResolvePointer(body.document(), option.pointer);
    if (own == nullptr || FindPresent(*own, "access_token") == nullptr) return;
    SecretJson fields = *own;
    SetLifetimesInSeconds(dialect, fields);
    if (!body.as_sent.has_value()) body.as_sent = std::move(body.fields);
    body.fields = std::move(fields);
    return;
  }
}

// The others in the same answer. A refresh of one of them need not bring the rest. What is captured from the answer is
// said to all.
void ReadSecondary(const AnswerDialect& dialect, const SecretJson& document, std::string_view label, Micros now,
                   TokenSet& tokens) {
  for (const SecondaryTokenOption& option : dialect.secondary_tokens) {
    if (option.label == label) continue;
    const SecretJson* answer = ResolvePointer(document, option.pointer);
    if (answer == nullptr || FindPresent(*answer, "access_token") == nullptr) continue;
    if (const std::string_view defect = FindDefect(*answer); !defect.empty()) {
      tokens.warnings.push_back("tokens of label " + option.label + ": " + std::string(defect) + "; ignored");
      continue;
    }
    SecretJson fields = *answer;
    SetLifetimesInSeconds(dialect, fields);
    TokenSet read = ReadObject(fields, true);
    ReadOtherExpiry(dialect, fields, now, read);
    read.captured = tokens.captured;
    for (const std::string& warning : std::exchange(read.warnings, {}))
      tokens.warnings.push_back("tokens of label " + option.label + ": " + warning);
    tokens.secondary.push_back({option.label, std::move(read)});
  }
}

// Whatever tokens are there; an access token that has a defect is left out.
TokenSet ReadTokens(const Provider& provider, const AnswerBody& body, std::string_view label, bool has_access_token,
                    Micros now) {
  const SecretJson& answer = body.fields;
  TokenSet tokens = ReadObject(answer, has_access_token);
  ReadOtherExpiry(provider.options.answer, answer, now, tokens);
  tokens.captured = CaptureFields(provider.options.answer, body.document(), tokens.warnings);
  ReadSecondary(provider.options.answer, body.document(), label, now, tokens);
  if (SaysError(answer)) tokens.warnings.push_back("the answer holds an access token and an error; the token counts");
  if (body.kind == BodyKind::kDamaged) tokens.warnings.push_back("the answer is damaged JSON; what can be read counts");
  return tokens;
}

// Of a damaged answer the refresh token has to be among what can be read, or it may be lost with the rest.
bool IsComplete(bool keeps_refresh_token, const AnswerBody& body, const TokenSet& tokens) {
  if (tokens.access_token.empty()) return false;
  if (body.kind == BodyKind::kObject) return true;
  return keeps_refresh_token || !tokens.refresh_token.empty();
}

void ForgetRefreshTokens(TokenSet& tokens) {
  tokens.refresh_token = Secret();
  for (SecondaryTokens& secondary : tokens.secondary) ForgetRefreshTokens(secondary.tokens);
}

// An answer that says itself that it is no success.
FailedAnswer Refuse(Failure failure, const AnswerBody& body) {
  FailedAnswer failed{std::move(failure), {}, {}, false};
  failed.client_refused = failed.failure.failure == FailureClass::kClientConfig && RefusesClient(body);
  return failed;
}

// failure has been judged; tokens are what was found beside it.
FailedAnswer FailedSuccess(Failure failure, const AnswerBody& body, TokenSet tokens) {
  FailedAnswer failed = Refuse(std::move(failure), body);
  // What says that it failed has replaced nothing, whatever it quotes.
  if (failed.failure.failure != FailureClass::kTransient || SaysError(body.fields)) return failed;
  failed.unread_success = tokens.refresh_token.empty();
  if (failed.unread_success) return failed;
  failed.refresh_token = std::move(tokens.refresh_token);
  failed.refresh_expires_in = tokens.refresh_expires_in;
  std::string& message = failed.failure.message;
  if (message.size() + kRefreshTokenKept.size() <= kMaxFailureMessage) message += kRefreshTokenKept;
  return failed;
}

}  // namespace

std::variant<TokenSet, FailedAnswer> ReadTokenResponse(const Provider& provider, const HttpResponse& response,
                                                       const std::vector<std::string_view>& sent, Micros now,
                                                       TokenAsk ask, std::string_view label) {
  if (response.failure != TransportFailure::kNone) return FailedAnswer{TransportFailed(response, sent), {}, {}, false};
  if (IsRedirect(response.status)) {
    std::string message = "HTTP " + std::to_string(response.status) + ": redirect refused";
    return FailedAnswer{{FailureClass::kTransient, std::move(message), {}}, {}, {}, false};
  }
  const AnswerDialect& dialect = provider.options.answer;
  AnswerBody body = ReadAnswerBody(response.body.view(), dialect.format);
  ArrangeFields(dialect, body);
  if (!IsSuccessStatus(dialect, response.status)) {
    constexpr std::string_view kComplaint = "not an answer that a token endpoint gives";
    return Refuse(ReadFailure(provider, response, body, kComplaint, sent, now), body);
  }
  if (!SaysSuccess(dialect, body)) {
    constexpr std::string_view kComplaint = "the answer does not say that it is a success";
    return Refuse(ReadFailure(provider, response, body, kComplaint, sent, now), body);
  }
  TakeOwnFields(dialect, label, body);
  const std::string_view defect = FindDefect(body.fields);
  TokenSet tokens = ReadTokens(provider, body, label, defect.empty(), now);
  const bool keeps = provider.options.keep_refresh_token && ask == TokenAsk::kRefresh;
  if (keeps) ForgetRefreshTokens(tokens);
  if (IsComplete(keeps, body, tokens)) return tokens;
  return FailedSuccess(ReadFailure(provider, response, body, defect, sent, now), body, std::move(tokens));
}

}  // namespace token_refresh
