// The option request_signature: see request_signature.h.
#include <algorithm>

#include "core/near_word.h"
#include "core/provider_option_rows.h"
#include "core/request_signature.h"

namespace token_refresh {
namespace {

constexpr std::string_view kKey = "request_signature";

const std::vector<std::string_view>& Members() {
  static const std::vector<std::string_view> members = {"text", "key", "encoding"};
  return members;
}

// Some sign several lines.
Status ReadSignedText(std::string_view key, const SecretJson& value, std::string& out) {
  SecretString without_lines(TextOf(value).value_or(""));
  std::replace(without_lines.begin(), without_lines.end(), '\n', ' ');
  if (Status status = ReadText(key, SecretJson(std::move(without_lines)), out); !status) return status;
  out = TextOf(value).value_or("");
  return Ok();
}

bool Has(const std::vector<std::string_view>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Result<TextTemplate> CheckedText(const std::string& member, const std::string& text, const ProviderOptions& options) {
  Result<TextTemplate> parsed = TextTemplate::Parse(text);
  std::string place(kKey);
  place.append(".").append(member);
  if (!parsed) return OptionError(place, parsed.error().message, parsed.error().hint);
  std::vector<std::string_view> known = KnownValueNames(options);
  known.insert(known.end(), SignedValueNames().begin(), SignedValueNames().end());
  for (const TextTemplate::Part& part : parsed->parts()) {
    for (const std::string& name : part.names) {
      if (Has(known, name)) continue;
      const std::optional<std::string_view> near = NearWord(name, known);
      std::string problem = "holds ${";
      problem.append(name).append("}, which has no meaning");
      return OptionError(place, problem, near.has_value() ? "Did you mean ${" + std::string(*near) + "}?" : "");
    }
  }
  return parsed;
}

bool Names(const TextTemplate& text, std::string_view name) {
  return std::any_of(text.parts().begin(), text.parts().end(), [name](const TextTemplate::Part& part) {
    return std::find(part.names.begin(), part.names.end(), name) != part.names.end();
  });
}

bool HoldsSignature(const std::string& text) {
  const Result<TextTemplate> parsed = TextTemplate::Parse(text);
  return parsed.ok() && Names(*parsed, kSignatureName);
}

bool IsUsed(const ProviderOptions& options) {
  const auto& headers = options.request_headers;
  const auto& params = options.request_params;
  return HoldsSignature(options.refresh_endpoint) ||
         std::any_of(headers.begin(), headers.end(),
                     [](const auto& header) { return HoldsSignature(header.second); }) ||
         std::any_of(params.begin(), params.end(),
                     [](const auto& param) { return HoldsSignature(param.second.value_or("")); });
}

// A variable of such a name would mean one thing in the signature and another elsewhere.
Status CheckNames(const ProviderOptions& options) {
  std::vector<std::string_view> taken = SignedValueNames();
  taken.push_back(kSignatureName);
  for (const std::string_view name : taken) {
    const std::string text(name);
    if (!options.request.variables.contains(text) && !options.answer.captured_fields.contains(text)) continue;
    return OptionError(options.request.variables.contains(text) ? "variables" : "captured_fields",
                       "must not hold " + QuoteWord(name) + " with option \"request_signature\"",
                       "It has a meaning of its own there.");
  }
  return Ok();
}

}  // namespace

Status SetRequestSignature(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  RequestSignature& signature = options.request.signature.emplace();
  for (const auto& [name, member] : *value.get_ptr<const SecretJson::object_t*>()) {
    const std::string place = std::string(key) + "." + std::string(name);
    if (!Has(Members(), name)) {
      const std::optional<std::string_view> near = NearWord(name, Members());
      return OptionError(key, "has an unknown member " + QuoteWord(name),
                         (near.has_value() ? "Did you mean " + QuoteWord(*near) + "? " : "") + "A member is " +
                             ListWords(Members()) + ".");
    }
    if (Status type = CheckOptionType(place, OptionType::kText, member); !type) return type;
    const Status read = name == "encoding"
                            ? SetWord(place, member, {"hex", "hex_upper", "base64"}, signature.encoding)
                            : ReadSignedText(place, member, name == "text" ? signature.text : signature.key);
    if (!read) return read;
  }
  if (signature.text.empty()) return OptionError(key, "needs a member \"text\"", "It says what is signed.");
  return Ok();
}

Status CheckSignatureOption(const ProviderOptions& options) {
  if (!options.request.signature.has_value()) return Ok();
  const RequestSignature& signature = *options.request.signature;
  if (Status names = CheckNames(options); !names) return names;
  const Result<TextTemplate> text = CheckedText("text", signature.text, options);
  if (!text) return text.error();
  const Result<TextTemplate> key = CheckedText("key", signature.key, options);
  if (!key) return key.error();
  if (!Names(signature.key.empty() ? *text : *key, "client_secret")) {
    return OptionError(signature.key.empty() ? "request_signature.text" : "request_signature.key",
                       "must hold ${client_secret}", "Anybody could sign without it.");
  }
  if (options.auth_method == ClientAuthMethod::kPrivateKeyJwt || options.request.grant_type == kJwtBearerGrant) {
    return OptionError(kKey, "makes no sense where client_secret holds a private key");
  }
  if (options.answer.expiry_source == ExpirySource::kIntrospection) {
    return OptionError(kKey, "cannot be used with option \"expiry_source\" set to \"introspection\"",
                       "Only requests for tokens are signed.");
  }
  if (!IsUsed(options)) {
    return OptionError(kKey, "is of no use: nothing holds ${signature}",
                       "It may stand in request_headers, request_params and refresh_endpoint.");
  }
  return Ok();
}

}  // namespace token_refresh
