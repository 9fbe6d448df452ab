#include "core/token_response.h"

#include <utility>

#include "core/answer_body.h"
#include "core/answer_failure.h"
#include "core/token_fields.h"

namespace token_refresh {
namespace {

bool IsSuccess(int status) { return status == 200 || status == 201; }

bool IsRedirect(int status) { return status / 100 == 3; }

Failure TransportFailed(const HttpResponse& response, const std::vector<std::string_view>& sent) {
  const std::string_view reason =
      response.failure_message.empty() ? std::string_view("no answer") : std::string_view(response.failure_message);
  return {FailureClass::kTransient, ScrubText(reason, sent), std::nullopt};
}

// What keeps an answer with a success status from being one; empty: nothing.
std::string_view FindDefect(const SecretJson& answer) {
  const SecretJson* access_token = FindPresent(answer, "access_token");
  if (access_token == nullptr) {
    return FindPresent(answer, "refresh_token") == nullptr ? "the answer holds no access token"
                                                           : "the answer holds a refresh token but no access token";
  }
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

TokenSet ReadTokens(const Provider& provider, const SecretJson& answer) {
  TokenSet tokens;
  tokens.access_token = Secret(TextOf(*FindMember(answer, "access_token")).value_or(std::string_view()));
  if (!provider.options.keep_refresh_token) tokens.refresh_token = ReadRefreshToken(answer, tokens);
  ReadTokenDetails(answer, tokens);
  if (SaysError(answer)) tokens.warnings.push_back("the answer holds an access token and an error; the token counts");
  return tokens;
}

}  // namespace

std::variant<TokenSet, Failure> ReadTokenResponse(const Provider& provider, const HttpResponse& response,
                                                  const std::vector<std::string_view>& sent, Micros now) {
  if (response.failure != TransportFailure::kNone) return TransportFailed(response, sent);
  if (IsRedirect(response.status)) {
    return Failure{FailureClass::kTransient, "HTTP " + std::to_string(response.status) + ": redirect refused", {}};
  }
  const AnswerBody body = ReadAnswerBody(response.body.view());
  std::string_view complaint = "not an answer that a token endpoint gives";
  if (IsSuccess(response.status) && body.kind == BodyKind::kObject) {
    complaint = FindDefect(body.fields);
    if (complaint.empty()) return ReadTokens(provider, body.fields);
  }
  return ReadFailure(provider, response, body, complaint, sent, now);
}

}  // namespace token_refresh
