#include "core/answer_failure.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>

#include "core/ascii.h"
#include "core/token_response.h"
#include "core/url_template.h"

namespace token_refresh {
namespace {

constexpr int kTooManyRequests = 429;
constexpr int kServiceUnavailable = 503;
constexpr size_t kMaxErrorCode = 64;
// Each is looked for at each place of what is quoted.
constexpr size_t kMostTokensToScrub = 256;

// What a provider says about a failure; the views live as long as the body.
struct Refusal {
  std::string_view code;         // "error", when it is text
  std::string_view description;  // in the provider's words
  bool says_not_ok = false;      // "ok": false, as Slack answers with a 200
};

struct BuiltInRule {
  std::string_view code;
  std::string_view description_holds;  // any case; empty: whatever it is
  bool needs_not_ok;
  FailureClass failure;
};

// The first that matches decides. Exceptions stand before the rule they are taken from.
constexpr std::array<BuiltInRule, 17> kBuiltInRules = {{
    // Salesforce, when two refreshes of one grant meet.
    {"invalid_grant", "already being processed", false, FailureClass::kTransient},
    // Microsoft, when the same request comes in a loop.
    {"invalid_grant", "AADSTS50196", false, FailureClass::kRateLimited},
    // Exact Online: the old access token is still good.
    {"access_denied", "not expired", false, FailureClass::kTooEarly},
    // RFC 6749 section 5.2. A request that is wrong in our way of asking says nothing about the grant.
    {"invalid_grant", "", false, FailureClass::kReauth},
    {"invalid_client", "", false, FailureClass::kClientConfig},
    {"unauthorized_client", "", false, FailureClass::kClientConfig},
    {"unsupported_grant_type", "", false, FailureClass::kClientConfig},
    {"invalid_scope", "", false, FailureClass::kClientConfig},
    {"invalid_request", "", false, FailureClass::kClientConfig},
    // RFC 6749 section 4.1.2.1 and RFC 8628 section 3.5, which some send here, too.
    {"temporarily_unavailable", "", false, FailureClass::kTransient},
    {"server_error", "", false, FailureClass::kTransient},
    {"slow_down", "", false, FailureClass::kRateLimited},
    // GitHub
    {"bad_refresh_token", "", false, FailureClass::kReauth},
    // Slack
    {"invalid_refresh_token", "", true, FailureClass::kReauth},
    {"token_revoked", "", true, FailureClass::kReauth},
    {"token_expired", "", true, FailureClass::kReauth},
    {"ratelimited", "", true, FailureClass::kRateLimited},
}};

std::string_view TextMember(const SecretJson& object, std::string_view key) {
  const SecretJson* member = FindMember(object, key);
  return member == nullptr ? std::string_view() : TextOf(*member).value_or(std::string_view());
}

std::string_view FirstText(const SecretJson& object, std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys) {
    if (const std::string_view text = TextMember(object, key); !text.empty()) return text;
  }
  return {};
}

bool SaysNotOk(const SecretJson& answer) {
  const SecretJson* ok = FindMember(answer, "ok");
  return ok != nullptr && ok->is_boolean() && !*ok->get_ptr<const bool*>();
}

Refusal ReadRefusal(const SecretJson& answer) {
  Refusal refusal;
  refusal.code = TextMember(answer, "error");
  refusal.description = FirstText(answer, {"error_description", "message"});
  refusal.says_not_ok = SaysNotOk(answer);
  const SecretJson* error = FindMember(answer, "error");
  if (refusal.description.empty() && error != nullptr) refusal.description = FirstText(*error, {"message", "type"});
  return refusal;
}

bool ContainsAnyCase(std::string_view text, std::string_view part) {
  if (part.empty()) return true;
  return std::search(text.begin(), text.end(), part.begin(), part.end(),
                     [](char a, char b) { return AsciiLower(a) == AsciiLower(b); }) != text.end();
}

// Slack, GitHub and others refuse with a success status.
bool SpeaksForTheGrant(int status) { return status / 100 == 2 || (status / 100 == 4 && status != kTooManyRequests); }

// Nothing is presented that could be dead, and the JWT, if there is one, is about the client alone: what is refused is
// its key, its audience or its request (RFC 7523 section 3.1).
bool AsksForItself(const ProviderOptions& options) {
  if (options.request.refresh_with != RefreshWith::kNothing || HasPlaces(options.assertion.subject)) return false;
  const auto& claims = options.assertion.claims;
  return std::none_of(claims.begin(), claims.end(), [](const auto& claim) { return HasPlaces(claim.second.text); });
}

FailureClass ApplyBuiltInRules(const ProviderOptions& options, int status, const AnswerBody& body,
                               const Refusal& refusal) {
  if (status == kTooManyRequests) return FailureClass::kRateLimited;
  if (body.kind != BodyKind::kObject || !SpeaksForTheGrant(status)) return FailureClass::kTransient;
  for (const BuiltInRule& rule : kBuiltInRules) {
    if (rule.code != refusal.code || (rule.needs_not_ok && !refusal.says_not_ok)) continue;
    if (!ContainsAnyCase(refusal.description, rule.description_holds)) continue;
    const bool ours = rule.failure == FailureClass::kReauth && AsksForItself(options);
    return ours ? FailureClass::kClientConfig : rule.failure;
  }
  return FailureClass::kTransient;
}

// A scalar as a rule's value is compared with it.
std::optional<SecretString> ScalarText(const SecretJson& value) {
  if (value.is_structured()) return std::nullopt;
  if (const std::optional<std::string_view> text = TextOf(value); text.has_value()) return SecretString(*text);
  return value.dump(-1, ' ', false, SecretJson::error_handler_t::replace);
}

bool ValueMatches(const std::string& wanted, const SecretJson& value) {
  const std::optional<SecretString> text = ScalarText(value);
  if (!text.has_value()) return false;
  const std::string_view pattern = wanted;
  if (pattern.ends_with('*')) return std::string_view(*text).starts_with(pattern.substr(0, pattern.size() - 1));
  return *text == pattern;
}

bool RuleMatches(const ErrorRule& rule, int status, const AnswerBody& body) {
  if (rule.status.has_value() && *rule.status != status) return false;
  if (rule.pointer.empty()) return true;
  if (body.kind != BodyKind::kObject) return false;
  const SecretJson* value = ResolvePointer(body.document(), rule.pointer);
  return value != nullptr && (!rule.value.has_value() || ValueMatches(*rule.value, *value));
}

FailureClass Classify(const Provider& provider, int status, const AnswerBody& body, const Refusal& refusal) {
  const bool may_be_dead = body.kind == BodyKind::kObject && SpeaksForTheGrant(status);
  for (const ErrorRule& rule : provider.options.error_rules) {
    if (rule.failure == FailureClass::kReauth && !may_be_dead) continue;
    if (RuleMatches(rule, status, body)) return rule.failure;
  }
  return ApplyBuiltInRules(provider.options, status, body, refusal);
}

std::string_view BodyComplaint(BodyKind kind) {
  switch (kind) {
    case BodyKind::kObject:
      return "";
    case BodyKind::kEmpty:
      return "the answer is empty";
    case BodyKind::kMarkup:
      return "the answer is a page of HTML or XML";
    case BodyKind::kDamaged:
      return "the answer is damaged JSON";
    case BodyKind::kTooDeep:
      return "the answer is nested too deep";
    case BodyKind::kTooLarge:
      return "the answer is too large";
    case BodyKind::kUnreadable:
      break;
  }
  return "the answer is neither a JSON object nor form-encoded";
}

std::string CodeText(std::string_view code) {
  std::string text(code.substr(0, kMaxErrorCode));
  for (char& c : text) {
    if (!IsAsciiAlphanumeric(c) && c != '_' && c != '.' && c != '-') c = '_';
  }
  return text;
}

// A refusal may echo what was sent, or even carry new tokens, at any place.
void CollectTokens(const SecretJson& value, std::vector<std::string_view>& secrets) {
  if (const auto* members = value.get_ptr<const SecretJson::object_t*>(); members != nullptr) {
    for (const auto& [key, member] : *members) {
      const bool is_token = key == "access_token" || key == "refresh_token" || key == "id_token";
      if (const std::optional<std::string_view> text = TextOf(member); is_token && text.has_value()) {
        secrets.push_back(*text);
      }
      CollectTokens(member, secrets);
    }
  } else if (const auto* elements = value.get_ptr<const SecretJson::array_t*>(); elements != nullptr) {
    for (const SecretJson& element : *elements) CollectTokens(element, secrets);
  }
}

std::string FailureMessage(int status, const AnswerBody& body, const Refusal& refusal, std::string_view complaint,
                           const std::vector<std::string_view>& sent) {
  std::vector<std::string_view> secrets = sent;
  CollectTokens(body.fields, secrets);
  if (body.as_sent.has_value()) CollectTokens(*body.as_sent, secrets);
  SecretString text("HTTP ");
  text += SecretString(std::to_string(status));
  if (secrets.size() > sent.size() + kMostTokensToScrub) {
    return std::string(text) + ": the answer holds too many tokens to be quoted";
  }
  // The code is scrubbed before it is shortened, or the rest of a secret would not be known as one.
  const std::string code = CodeText(ScrubText(refusal.code, secrets));
  if (!code.empty()) text.append(" ").append(code);
  const std::string_view body_complaint = BodyComplaint(body.kind);
  const std::string_view reason = !refusal.description.empty() ? refusal.description
                                  : !body_complaint.empty()    ? body_complaint
                                  : code.empty()               ? complaint
                                                               : std::string_view();
  if (!reason.empty()) text.append(": ").append(reason);
  return ScrubText(text, secrets);
}

}  // namespace

bool SaysError(const SecretJson& answer) { return !TextMember(answer, "error").empty() || SaysNotOk(answer); }

bool RefusesClient(const AnswerBody& body) {
  const SecretJson* error = FindMember(body.fields, "error");
  return body.kind == BodyKind::kObject && error != nullptr && TextOf(*error) == "invalid_client";
}

Failure ReadFailure(const Provider& provider, const HttpResponse& response, const AnswerBody& body,
                    std::string_view complaint, const std::vector<std::string_view>& sent, Micros now) {
  const Refusal refusal = body.kind == BodyKind::kObject ? ReadRefusal(body.fields) : Refusal();
  Failure failure;
  failure.failure = Classify(provider, response.status, body, refusal);
  failure.message = FailureMessage(response.status, body, refusal, complaint, sent);
  const bool may_ask_to_wait = failure.failure == FailureClass::kRateLimited || response.status == kTooManyRequests ||
                               response.status == kServiceUnavailable;
  if (may_ask_to_wait) failure.retry_after_us = ParseRetryAfter(response.retry_after, now);
  return failure;
}

}  // namespace token_refresh
