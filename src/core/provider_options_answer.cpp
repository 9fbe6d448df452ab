// Options that say how a provider's answers are read.
#include <algorithm>

#include "core/near_word.h"
#include "core/provider_option_rows.h"
#include "core/request_values.h"
#include "core/text_template.h"

namespace token_refresh {
namespace {

constexpr size_t kMaxSecondaryTokens = 8;
constexpr size_t kMaxLabel = 200;  // as of any credential

const std::vector<std::string_view>& PointerFields() {
  static const std::vector<std::string_view> fields = {
      "access_token", "refresh_token", "expires_in",        "expires_at", "token_type",
      "scope",        "error",         "error_description", "id_token",   "refresh_token_expires_in"};
  return fields;
}

Status CheckPointer(std::string_view key, const std::string& pointer) {
  if (IsJsonPointer(pointer)) return Ok();
  return OptionError(key, "is not a JSON pointer (RFC 6901)", "An example is \"/id\".");
}

Status SetSubjectPointer(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  if (Status status = ReadText(key, value, options.subject_pointer); !status) return status;
  return CheckPointer(key, options.subject_pointer);
}

Status SetErrorRules(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return ReadErrorRules(key, value, options.error_rules);
}

Status SetResponseFormat(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return SetWord(key, value, {"auto", "xml"}, options.answer.format);
}

Status SetResponsePointers(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  std::map<std::string, std::string>& pointers = options.answer.pointers;
  if (Status status = ReadTextMap(key, value, pointers); !status) return status;
  const std::vector<std::string_view>& known = PointerFields();
  for (const auto& [field, pointer] : pointers) {
    if (std::find(known.begin(), known.end(), field) == known.end()) {
      const std::optional<std::string_view> near = NearWord(field, known);
      return OptionError(key, "has an unknown member " + QuoteWord(field),
                         (near.has_value() ? "Did you mean " + QuoteWord(*near) + "? " : "") + "A member is " +
                             ListWords(known) + ".");
    }
    if (Status status = CheckPointer(std::string(key) + "." + field, pointer); !status) return status;
  }
  return Ok();
}

// A redirect is never followed, and 429 and 5xx never mean a success.
Status SetSuccessStatuses(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  if (value.empty()) return OptionError(key, "must not be empty");
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string place = std::string(key) + "[" + std::to_string(i) + "]";
    if (Status type = CheckOptionType(place, OptionType::kInteger, value[i]); !type) return type;
    const Result<int64_t> status = ReadInteger(place, value[i], 200, 499);
    if (!status) return status.error();
    if (*status == 429 || *status / 100 == 3) return OptionError(place, "must be of 2xx or 4xx, and not 429");
    options.answer.success_statuses.push_back(static_cast<int>(*status));
  }
  return Ok();
}

Status SetSuccessPointer(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  if (Status status = ReadText(key, value, options.answer.success_pointer); !status) return status;
  return CheckPointer(key, options.answer.success_pointer);
}

Status SetSuccessValue(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return ReadText(key, value, options.answer.success_value.emplace());
}

Status SetExpiresInUnit(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return SetWord(key, value, {"s", "ms"}, options.answer.expires_in_unit);
}

Status SetExpirySource(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  Status status = SetWord(key, value, {"response", "introspection", "jwt"}, options.answer.expiry_source);
  options.timing.introspects = options.answer.expiry_source == ExpirySource::kIntrospection;
  return status;
}

// What is captured is not sealed.
bool NamesToken(std::string_view pointer) {
  const std::string_view last = pointer.substr(pointer.rfind('/') + 1);
  return last == "access_token" || last == "refresh_token" || last == "id_token";
}

Error CapturesToken() {
  return OptionError("captured_fields", "must not capture a token", "What is captured is not sealed.");
}

Status CheckCaptured(std::string_view key, const std::string& name, const std::string& pointer) {
  const std::vector<std::string_view>& generated = GeneratedValueNames();
  if (!IsValueName(name)) {
    return OptionError(key, "holds " + QuoteWord(name) + ", which is not a usable name",
                       "A name begins with a letter; then letters, digits, _, - and . may follow.");
  }
  if (std::find(generated.begin(), generated.end(), name) != generated.end()) {
    return OptionError(key, "must not hold " + QuoteWord(name) + ", which has a meaning of its own");
  }
  if (!IsJsonPointer(pointer)) {
    return OptionError(key, "has no JSON pointer (RFC 6901) for " + QuoteWord(name), "An example is \"/team/id\".");
  }
  if (NamesToken(pointer)) return CapturesToken();
  return Ok();
}

Status SetCapturedFields(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  std::map<std::string, std::string>& fields = options.answer.captured_fields;
  if (value.is_object()) {
    if (Status status = ReadTextMap(key, value, fields); !status) return status;
  }
  for (size_t i = 0; value.is_array() && i < value.size(); ++i) {
    const std::string place = std::string(key) + "[" + std::to_string(i) + "]";
    if (Status type = CheckOptionType(place, OptionType::kText, value[i]); !type) return type;
    const std::string name(TextOf(value[i]).value_or(""));
    fields[name] = "/" + name;
  }
  for (const auto& [name, pointer] : fields) {
    if (Status status = CheckCaptured(key, name, pointer); !status) return status;
  }
  return Ok();
}

Result<SecondaryTokenOption> ReadSecondary(const std::string& place, const SecretJson& value) {
  if (Status type = CheckOptionType(place, OptionType::kObject, value); !type) return type.error();
  std::map<std::string, std::string> members;
  if (Status status = ReadTextMap(place, value, members); !status) return status.error();
  for (const auto& [name, text] : members) {
    if (name != "label" && name != "pointer") {
      return OptionError(place, "has an unknown member " + QuoteWord(name), "Known members are: label, pointer.");
    }
  }
  SecondaryTokenOption option{members["label"], members["pointer"]};
  if (option.label.empty()) return OptionError(place, "needs a label", "The tokens become a credential of that label.");
  if (option.label.size() > kMaxLabel) return OptionError(place + ".label", "must be at most 200 bytes long");
  if (Status status = CheckPointer(place + ".pointer", option.pointer); !status) return status.error();
  return option;
}

Status SetSecondaryTokens(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  std::vector<SecondaryTokenOption>& secondary = options.answer.secondary_tokens;
  if (value.size() > kMaxSecondaryTokens) return OptionError(key, "must hold at most 8 elements");
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string place = std::string(key) + "[" + std::to_string(i) + "]";
    Result<SecondaryTokenOption> option = ReadSecondary(place, value[i]);
    if (!option) return option.error();
    const bool taken = std::any_of(secondary.begin(), secondary.end(),
                                   [&](const SecondaryTokenOption& earlier) { return earlier.label == option->label; });
    if (taken) return OptionError(place, "has the label of an earlier one");
    secondary.push_back(*std::move(option));
  }
  return Ok();
}

// A token may stand where its name does not tell.
Status CheckCapturedPlaces(const AnswerDialect& answer) {
  for (const std::string_view token : {"access_token", "refresh_token", "id_token"}) {
    const auto place = answer.pointers.find(std::string(token));
    if (place == answer.pointers.end()) continue;
    for (const auto& [name, pointer] : answer.captured_fields) {
      if (pointer == place->second) return CapturesToken();
    }
  }
  return Ok();
}

}  // namespace

std::vector<OptionRow> AnswerOptionRows() {
  using O = ProviderOptions;
  using enum OptionType;
  return {
      {{"authorization_response_iss_parameter_supported", kBoolean}, SetBoolean<&O::sign_in_brings_iss>},
      {{"subject_pointer", kText}, SetSubjectPointer},
      {{"response_format", kText}, SetResponseFormat},
      {{"response_pointers", kObject}, SetResponsePointers},
      {{"success_statuses", kArray}, SetSuccessStatuses},
      {{"success_pointer", kText}, SetSuccessPointer},
      {{"success_value", kText}, SetSuccessValue},
      {{"expires_in_unit", kText}, SetExpiresInUnit},
      {{"expiry_source", kText}, SetExpirySource},
      {{"captured_fields", kObjectOrArray}, SetCapturedFields},
      {{"secondary_tokens", kArray}, SetSecondaryTokens},
      {{"error_rules", kArray}, SetErrorRules},
      {{"keep_refresh_token", kBoolean}, SetBoolean<&O::keep_refresh_token>},
  };
}

Status CheckAnswerOptions(const ProviderOptions& options) {
  if (options.sign_in_brings_iss && options.issuer.empty()) {
    return OptionError("authorization_response_iss_parameter_supported", "needs option \"issuer\"",
                       "That is what iss is compared with.");
  }
  if (options.answer.success_value.has_value() && options.answer.success_pointer.empty()) {
    return OptionError("success_value", "needs option \"success_pointer\"");
  }
  // Without a token endpoint they are not whole yet: what the issuer publishes may have the other one, too.
  if (options.timing.introspects && options.introspection_endpoint.empty() && !options.token_endpoint.empty()) {
    return OptionError("expiry_source", "is \"introspection\", which needs option \"introspection_endpoint\"");
  }
  return CheckCapturedPlaces(options.answer);
}

}  // namespace token_refresh
