// Options that say how a provider wants to be asked.
#include <algorithm>

#include "core/ascii.h"
#include "core/near_word.h"
#include "core/provider_option_rows.h"
#include "core/request_signature.h"
#include "core/request_values.h"
#include "core/text_template.h"
#include "core/url_template.h"

namespace token_refresh {
namespace {

constexpr size_t kMaxSeparator = 8;

Status SetGrantType(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  if (Status status = ReadText(key, value, options.request.grant_type); !status) return status;
  if (options.request.grant_type.empty()) return OptionError(key, "must not be empty");
  return Ok();
}

Status SetScopeSeparator(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  std::string& separator = options.request.scope_separator;
  if (Status status = ReadText(key, value, separator); !status) return status;
  if (separator.empty() || separator.size() > kMaxSeparator) return OptionError(key, "must be 1 to 8 bytes long");
  return Ok();
}

Status SetRequestParams(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return ReadRequestParams(key, value, options.request_params);
}

Status SetRequestHeaders(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return ReadRequestHeaders(key, value, options.request_headers);
}

Status SetAuthorizationParams(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return ReadRequestParams(key, value, options.authorization_params);
}

// Those that requests may have.
const std::vector<std::string_view>& StandardParams() {
  static const std::vector<std::string_view> names = {"grant_type",
                                                      "refresh_token",
                                                      "access_token",
                                                      "scope",
                                                      "client_id",
                                                      "client_secret",
                                                      "subject_token",
                                                      "subject_token_type",
                                                      "assertion",
                                                      "client_assertion",
                                                      "client_assertion_type",
                                                      "code",
                                                      "code_verifier",
                                                      "redirect_uri",
                                                      "token",
                                                      "token_type_hint"};
  return names;
}

// Those of an authorization request that are no matter of authorization_params.
const std::vector<std::string_view>& StandardAuthorizationParams() {
  static const std::vector<std::string_view> names = {
      "response_type", "client_id",      "redirect_uri",          "scope",
      "state",         "code_challenge", "code_challenge_method", "nonce"};
  return names;
}

Status CheckParamNames(std::string_view key, const std::map<std::string, std::string>& names,
                       const std::vector<std::string_view>& known) {
  for (auto name = names.begin(); name != names.end(); ++name) {
    if (std::find(known.begin(), known.end(), name->first) == known.end()) {
      const std::optional<std::string_view> near = NearWord(name->first, known);
      return OptionError(key, "has an unknown member " + QuoteWord(name->first),
                         (near.has_value() ? "Did you mean " + QuoteWord(*near) + "? " : "") + "A member is " +
                             ListWords(known) + ".");
    }
    if (name->second.empty()) return OptionError(key, "holds an empty name for " + QuoteWord(name->first));
    const bool taken =
        std::any_of(names.begin(), name, [&](const auto& earlier) { return earlier.second == name->second; });
    if (taken) return OptionError(key, "holds " + QuoteWord(name->second) + " twice");
  }
  return Ok();
}

Status SetParamNames(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  if (Status status = ReadTextMap(key, value, options.request.param_names); !status) return status;
  return CheckParamNames(key, options.request.param_names, StandardParams());
}

Status SetAuthorizationParamNames(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  std::map<std::string, std::string>& names = options.request.authorization_param_names;
  if (Status status = ReadTextMap(key, value, names); !status) return status;
  const std::vector<std::string_view>& known = StandardAuthorizationParams();
  if (Status status = CheckParamNames(key, names, known); !status) return status;
  for (const auto& [name, sent] : names) {
    if (std::find(known.begin(), known.end(), sent) != known.end() && !names.contains(sent)) {
      return OptionError(key, "gives " + QuoteWord(name) + " the name of another parameter");
    }
  }
  return Ok();
}

Status SetRequestMethod(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return SetWord(key, value, {"POST", "GET"}, options.request.method);
}

Status SetRequestFormat(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return SetWord(key, value, {"form", "json", "query"}, options.request.format);
}

// A null is what a preset leaves to the registration.
Status SetVariables(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  const std::vector<std::string_view>& generated = GeneratedValueNames();
  for (const auto& [name, member] : *value.get_ptr<const SecretJson::object_t*>()) {
    if (!IsValueName(name)) {
      return OptionError(key, "holds " + QuoteWord(name) + ", which is not a usable name",
                         "A name begins with a letter; then letters, digits, _, - and . may follow.");
    }
    if (std::find(generated.begin(), generated.end(), std::string_view(name)) != generated.end()) {
      return OptionError(key, "must not hold " + QuoteWord(name) + ", which has a meaning of its own");
    }
    if (member.is_null() || TextOf(member) == "") {
      return OptionError(key, "needs a value for " + QuoteWord(name),
                         "Give it, as {\"variables\": {\"" + std::string(name) +
                             "\": \"...\"}}; for a preset, docs/providers.md says what it is.");
    }
    const std::string place = std::string(key) + "." + std::string(name);
    if (Status type = CheckOptionType(place, OptionType::kText, member); !type) return type;
    Status text = ReadText(place, member, options.request.variables[std::string(name)]);
    if (!text) return text;
  }
  return Ok();
}

Status SetAllowedHosts(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string place = std::string(key) + "[" + std::to_string(i) + "]";
    if (Status type = CheckOptionType(place, OptionType::kText, value[i]); !type) return type;
    std::string pattern = AsciiLower(TextOf(value[i]).value_or(""));
    if (!IsHostPattern(pattern)) {
      return OptionError(place, "is neither a host nor \"*.\" with a domain of at least two labels",
                         "Examples are \"accounts.example.com\" and \"*.example.com\".");
    }
    options.request.allowed_hosts.push_back(std::move(pattern));
  }
  if (value.empty()) return OptionError(key, "must not be empty");
  return Ok();
}

Status SetRefreshWith(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return SetWord(key, value, {"refresh_token", "access_token", "nothing"}, options.request.refresh_with);
}

RefreshWith UsualRefreshWith(const std::string& grant_type) {
  if (grant_type == kClientCredentialsGrant || grant_type == kJwtBearerGrant) return RefreshWith::kNothing;
  return grant_type == kTokenExchangeGrant ? RefreshWith::kAccessToken : RefreshWith::kRefreshToken;
}

// grant_type says what is presented, and refresh_with where the grant type does not.
Status FinishGrant(const SecretJson& object, RequestDialect& dialect) {
  const RefreshWith usual = UsualRefreshWith(dialect.grant_type);
  if (FindMember(object, "refresh_with") == nullptr) {
    dialect.refresh_with = usual;
  } else if (usual == RefreshWith::kNothing && dialect.refresh_with != usual) {
    return OptionError("refresh_with", "must be \"nothing\" with this \"grant_type\"");
  } else if (dialect.refresh_with == RefreshWith::kNothing && usual != RefreshWith::kNothing &&
             (dialect.grant_type == kRefreshTokenGrant || dialect.grant_type == kTokenExchangeGrant)) {
    return OptionError("refresh_with", "must not be \"nothing\" with this \"grant_type\"");
  }
  return Ok();
}

// Where ${signature} is understood, and made in time.
bool MayHoldSignature(std::string_view key, const ProviderOptions& options) {
  if (!options.request.signature.has_value()) return false;
  if (key == "request_headers") return true;
  return (key == "request_params" || key == "refresh_endpoint") && !SignsBody(*options.request.signature);
}

Error MisplacedSignature(std::string_view key, const std::string& where, const ProviderOptions& options) {
  if (!options.request.signature.has_value()) {
    return OptionError(key, "holds ${signature}" + where + ", which needs option \"request_signature\"");
  }
  return OptionError(key, "must not hold ${signature}" + where,
                     SignsBody(*options.request.signature)
                         ? "What signs the body can only stand in request_headers."
                         : "It may stand in request_headers, request_params and refresh_endpoint.");
}

}  // namespace

std::vector<std::string_view> KnownValueNames(const ProviderOptions& options) {
  std::vector<std::string_view> names = GeneratedValueNames();
  for (const auto& [name, value] : options.request.variables) names.push_back(name);
  for (const auto& [name, pointer] : options.answer.captured_fields) names.push_back(name);
  return names;
}

std::vector<OptionRow> RequestOptionRows() {
  using O = ProviderOptions;
  using enum OptionType;
  return {
      {{"grant_type", kText}, SetGrantType},
      {{"refresh_with", kText}, SetRefreshWith},
      {{"scope", kText}, SetText<&O::scope>},
      {{"scope_separator", kText}, SetScopeSeparator},
      {{"request_method", kText}, SetRequestMethod},
      {{"request_format", kText}, SetRequestFormat},
      {{"param_names", kObject}, SetParamNames},
      {{"request_params", kObject}, SetRequestParams},
      {{"request_headers", kObject}, SetRequestHeaders},
      {{"request_signature", kObject}, SetRequestSignature},
      {{"authorization_params", kObject}, SetAuthorizationParams},
      {{"authorization_param_names", kObject}, SetAuthorizationParamNames},
      {{"variables", kObject}, SetVariables},
      {{"allowed_hosts", kArray}, SetAllowedHosts},
  };
}

Status CheckPlaces(std::string_view key, std::string_view member, std::string_view text,
                   const ProviderOptions& options) {
  const std::string where = member.empty() ? "" : " in the value of " + QuoteWord(member);
  const Result<TextTemplate> parsed = TextTemplate::Parse(text);
  if (!parsed) return OptionError(key, parsed.error().message + where, parsed.error().hint);
  std::vector<std::string_view> known = KnownValueNames(options);
  if (MayHoldSignature(key, options)) known.push_back(kSignatureName);
  for (const TextTemplate::Part& part : parsed->parts()) {
    for (const std::string& name : part.names) {
      if (std::find(known.begin(), known.end(), name) != known.end()) continue;
      if (name == kSignatureName) return MisplacedSignature(key, where, options);
      const std::optional<std::string_view> near = NearWord(name, known);
      return OptionError(
          key, "holds ${" + name + "}" + where + ", which is neither in \"variables\" nor in \"captured_fields\"",
          near.has_value() ? "Did you mean ${" + std::string(*near) + "}?" : "");
    }
  }
  return Ok();
}

Status CheckRequestOptions(const SecretJson& object, ProviderOptions& options) {
  RequestDialect& dialect = options.request;
  if (Status status = FinishGrant(object, dialect); !status) return status;
  if (dialect.method == RequestMethod::kGet) {
    if (FindMember(object, "request_format") != nullptr && dialect.format != RequestFormat::kQuery) {
      return OptionError("request_format", "must be \"query\" with option \"request_method\" set to \"GET\"",
                         "A GET has no body.");
    }
    dialect.format = RequestFormat::kQuery;
  }
  for (const auto& [name, text] : options.request_params) {
    if (Status status = CheckPlaces("request_params", name, text.value_or(""), options); !status) return status;
  }
  for (const auto& [name, text] : options.request_headers) {
    if (Status status = CheckPlaces("request_headers", name, text, options); !status) return status;
  }
  return CheckSignatureOption(options);
}

}  // namespace token_refresh
