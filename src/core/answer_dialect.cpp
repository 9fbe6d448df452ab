#include "core/answer_dialect.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "core/encoding.h"
#include "core/token_fields.h"

namespace token_refresh {
namespace {

constexpr double kMillisecondsInSecond = 1000;

bool IsOfError(std::string_view field) { return field == "error" || field == "error_description"; }

// Codes of errors are numbers with some.
SecretJson AsText(const SecretJson& value) {
  if (!value.is_number() && !value.is_boolean()) return value;
  return value.dump(-1, ' ', false, SecretJson::error_handler_t::replace);
}

// How a success has no error, where an error is a code.
bool SaysNothing(const SecretJson& value) {
  return value.is_null() || value == false || (value.is_number() && ReadNumber(value) == 0.0);
}

void ArrangeField(const SecretString& field, const SecretJson* value, SecretJson& fields) {
  if (value != nullptr && IsOfError(field)) {
    if (!SaysNothing(*value)) fields[field] = AsText(*value);
  } else if (value != nullptr) {
    fields[field] = *value;
  } else if (!IsOfError(field)) {
    fields.erase(field);
  }
}

void ToSeconds(std::string_view key, SecretJson& fields) {
  const SecretJson* value = FindMember(fields, key);
  const std::optional<double> number = value == nullptr ? std::nullopt : ReadNumber(*value);
  if (number.has_value()) fields[SecretString(key)] = *number / kMillisecondsInSecond;
}

// The claim exp of a JWT, unverified: it only says when to refresh.
std::optional<Micros> ExpiryOfJwt(std::string_view token) {
  const size_t first = token.find('.');
  const size_t second = first == std::string_view::npos ? first : token.find('.', first + 1);
  if (second == std::string_view::npos) return std::nullopt;
  const std::optional<Secret> payload = Base64UrlDecode(token.substr(first + 1, second - first - 1));
  if (!payload.has_value()) return std::nullopt;
  const std::optional<SecretJson> claims = ParseSecretJson(payload->view());
  const SecretJson* exp = claims.has_value() ? FindMember(*claims, "exp") : nullptr;
  return exp != nullptr && exp->is_number() ? ReadMoment(*exp) : std::nullopt;
}

void TakeMoment(std::optional<Micros> moment, Micros now, std::string_view complaint, TokenSet& tokens) {
  if (!moment.has_value() || *moment - now < kSecond) {
    tokens.warnings.emplace_back(complaint);
  } else {
    tokens.expires_in = std::min(*moment - now, kMaxLifetime);
  }
}

}  // namespace

void SetLifetimesInSeconds(const AnswerDialect& dialect, SecretJson& fields) {
  if (dialect.expires_in_unit == LifetimeUnit::kSeconds) return;
  ToSeconds("expires_in", fields);
  for (const std::string_view key : RefreshLifetimeKeys()) ToSeconds(key, fields);
}

void ArrangeFields(const AnswerDialect& dialect, AnswerBody& body) {
  const bool in_seconds = dialect.expires_in_unit == LifetimeUnit::kSeconds;
  if (!body.fields.is_object() || (dialect.pointers.empty() && in_seconds)) return;
  body.as_sent = body.fields;
  for (const auto& [field, pointer] : dialect.pointers) {
    ArrangeField(SecretString(field), ResolvePointer(*body.as_sent, pointer), body.fields);
  }
  SetLifetimesInSeconds(dialect, body.fields);
}

bool IsSuccessStatus(const AnswerDialect& dialect, int status) {
  if (dialect.success_statuses.empty()) return status / 100 == 2;
  return std::find(dialect.success_statuses.begin(), dialect.success_statuses.end(), status) !=
         dialect.success_statuses.end();
}

bool SaysSuccess(const AnswerDialect& dialect, const AnswerBody& body) {
  if (dialect.success_pointer.empty() || body.kind != BodyKind::kObject) return true;
  const SecretJson* value = ResolvePointer(body.document(), dialect.success_pointer);
  if (value == nullptr || value->is_null()) return false;
  if (!dialect.success_value.has_value()) return !value->is_boolean() || *value->get_ptr<const bool*>();
  if (value->is_structured()) return false;
  return TextOf(AsText(*value)) == *dialect.success_value;
}

void ReadOtherExpiry(const AnswerDialect& dialect, const SecretJson& fields, Micros now, TokenSet& tokens) {
  if (dialect.pointers.contains("expires_at")) {
    const SecretJson* value = FindPresent(fields, "expires_at");
    if (value != nullptr) {
      TakeMoment(ReadMoment(*value), now, "expires_at is not a time in the future; ignored", tokens);
    }
  }
  if (dialect.expiry_source == ExpirySource::kJwt && !tokens.access_token.empty()) {
    TakeMoment(ExpiryOfJwt(tokens.access_token.view()), now,
               "the access token is not a JWT with an expiry in the future; its expiry is taken from the answer",
               tokens);
  }
}

}  // namespace token_refresh
