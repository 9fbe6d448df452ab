// Options that say how a provider wants to be asked.
#include <algorithm>

#include "core/near_word.h"
#include "core/provider_option_rows.h"
#include "core/request_values.h"
#include "core/text_template.h"

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

Status CheckParamNames(std::string_view key, const std::map<std::string, std::string>& names) {
  for (auto name = names.begin(); name != names.end(); ++name) {
    if (name->second.empty()) return OptionError(key, "holds an empty name for " + QuoteWord(name->first));
    const bool taken =
        std::any_of(names.begin(), name, [&](const auto& earlier) { return earlier.second == name->second; });
    if (taken) return OptionError(key, "holds " + QuoteWord(name->second) + " twice");
  }
  return Ok();
}

Status SetParamNames(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  if (Status status = ReadTextMap(key, value, options.request.param_names); !status) return status;
  return CheckParamNames(key, options.request.param_names);
}

Status SetRequestMethod(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return SetWord(key, value, {"POST", "GET"}, options.request.method);
}

Status SetRequestFormat(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return SetWord(key, value, {"form", "json", "query"}, options.request.format);
}

// A place is only worth something if it can ever be filled.
Status CheckPlaces(std::string_view key, std::string_view member, std::string_view text) {
  const std::string where = " in the value of " + QuoteWord(member);
  const Result<TextTemplate> parsed = TextTemplate::Parse(text);
  if (!parsed) return OptionError(key, parsed.error().message + where, parsed.error().hint);
  const std::vector<std::string_view>& known = GeneratedValueNames();
  for (const TextTemplate::Part& part : parsed->parts()) {
    for (const std::string& name : part.names) {
      if (std::find(known.begin(), known.end(), name) != known.end()) continue;
      const std::optional<std::string_view> near = NearWord(name, known);
      return OptionError(key, "holds ${" + name + "}, which is not known," + where,
                         near.has_value() ? "Did you mean ${" + std::string(*near) + "}?" : "");
    }
  }
  return Ok();
}

}  // namespace

std::vector<OptionRow> RequestOptionRows() {
  using O = ProviderOptions;
  using enum OptionType;
  return {
      {{"grant_type", kText}, SetGrantType},
      {{"scope", kText}, SetText<&O::scope>},
      {{"scope_separator", kText}, SetScopeSeparator},
      {{"request_method", kText}, SetRequestMethod},
      {{"request_format", kText}, SetRequestFormat},
      {{"param_names", kObject}, SetParamNames},
      {{"request_params", kObject}, SetRequestParams},
      {{"request_headers", kObject}, SetRequestHeaders},
      {{"authorization_params", kObject}, SetAuthorizationParams},
  };
}

Status CheckRequestOptions(const SecretJson& object, ProviderOptions& options) {
  RequestDialect& dialect = options.request;
  if (dialect.method == RequestMethod::kGet) {
    if (FindMember(object, "request_format") != nullptr && dialect.format != RequestFormat::kQuery) {
      return OptionError("request_format", "must be \"query\" with option \"request_method\" set to \"GET\"",
                         "A GET has no body.");
    }
    dialect.format = RequestFormat::kQuery;
  }
  for (const auto& [name, text] : options.request_params) {
    if (Status status = CheckPlaces("request_params", name, text.value_or("")); !status) return status;
  }
  for (const auto& [name, text] : options.request_headers) {
    if (Status status = CheckPlaces("request_headers", name, text); !status) return status;
  }
  return Ok();
}

}  // namespace token_refresh
