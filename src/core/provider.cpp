#include "core/provider.h"

#include <utility>

#include "core/near_word.h"
#include "core/parsed_url.h"
#include "core/provider_option_rows.h"
#include "core/secret_json.h"

namespace token_refresh {
namespace {

constexpr size_t kMaxOptionsBytes = size_t{64} * 1024;
constexpr int64_t kMaxInFlight = 10000;

template <auto Member>
Status SetUrl(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return ReadUrl(key, value, options.*Member);
}

template <auto Member, IntervalBound kBound>
Status SetInterval(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return StoreInterval(key, value, kBound, options.*Member);
}

template <auto Member, IntervalBound kBound>
Status SetTiming(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return StoreInterval(key, value, kBound, options.timing.*Member);
}

Status Ignore(std::string_view, const SecretJson&, ProviderOptions&) { return Ok(); }

const std::vector<std::string_view>& AuthMethodWords() {
  static const std::vector<std::string_view> words = {"client_secret_basic", "client_secret_post", "none"};
  return words;
}

Status SetAuthMethod(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  constexpr ClientAuthMethod kMethods[] = {ClientAuthMethod::kClientSecretBasic, ClientAuthMethod::kClientSecretPost,
                                           ClientAuthMethod::kNone};
  const Result<size_t> word = ReadWord(key, value, AuthMethodWords());
  if (!word) return word.error();
  options.auth_method = kMethods[*word];
  return Ok();
}

Status SetBasicEncoding(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  const Result<size_t> word = ReadWord(key, value, {"rfc6749", "raw"});
  if (!word) return word.error();
  options.basic_encoding = *word == 0 ? BasicEncoding::kRfc6749 : BasicEncoding::kRaw;
  return Ok();
}

Status SetMaxInFlight(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  const Result<int64_t> number = ReadInteger(key, value, 1, kMaxInFlight);
  if (!number) return number.error();
  options.max_in_flight = static_cast<int>(*number);
  return Ok();
}

Status SetSubjectPointer(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  if (Status status = ReadText(key, value, options.subject_pointer); !status) return status;
  if (IsJsonPointer(options.subject_pointer)) return Ok();
  return OptionError(key, "is not a JSON pointer (RFC 6901)", "An example is \"/id\".");
}

Status SetErrorRules(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return ReadErrorRules(key, value, options.error_rules);
}

Status SetCaFile(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return ReadAbsolutePath(key, value, options.ca_file);
}

std::vector<OptionRow> PlaceRows() {
  using O = ProviderOptions;
  using enum OptionType;
  return {
      {{"preset", kText}, Ignore},
      {{"token_endpoint", kUrl}, SetUrl<&O::token_endpoint>},
      {{"refresh_endpoint", kUrl}, SetUrl<&O::refresh_endpoint>},
      {{"revocation_endpoint", kUrl}, SetUrl<&O::revocation_endpoint>},
      {{"introspection_endpoint", kUrl}, SetUrl<&O::introspection_endpoint>},
      {{"authorization_endpoint", kUrl}, SetUrl<&O::authorization_endpoint>},
      {{"userinfo_endpoint", kUrl}, SetUrl<&O::userinfo_endpoint>},
      {{"issuer", kUrl}, SetUrl<&O::issuer>},
      {{"jwks_uri", kUrl}, SetUrl<&O::jwks_uri>},
      {{"token_endpoint_auth_method", kText}, SetAuthMethod},
      {{"basic_encoding", kText}, SetBasicEncoding},
  };
}

std::vector<OptionRow> AnswerRows() {
  using O = ProviderOptions;
  using enum OptionType;
  return {
      {{"subject_pointer", kText}, SetSubjectPointer},
      {{"error_rules", kArray}, SetErrorRules},
      {{"keep_refresh_token", kBoolean}, SetBoolean<&O::keep_refresh_token>},
  };
}

std::vector<OptionRow> LimitRows() {
  using O = ProviderOptions;
  using T = RefreshTiming;
  using enum OptionType;
  using enum IntervalBound;
  return {
      {{"refresh_margin", kInterval}, SetTiming<&T::refresh_margin, kPositive>},
      {{"default_expires_in", kInterval}, SetTiming<&T::default_expires_in, kPositive>},
      {{"keep_alive", kInterval}, SetTiming<&T::keep_alive, kPositive>},
      {{"min_interval", kInterval}, SetTiming<&T::min_interval, kZeroOrPositive>},
      {{"replay_window", kInterval}, SetInterval<&O::replay_window, kZeroOrPositive>},
      {{"connect_timeout", kInterval}, SetInterval<&O::connect_timeout, kTimeout>},
      {{"timeout", kInterval}, SetInterval<&O::timeout, kTimeout>},
      {{"max_attempt_delay", kInterval}, SetInterval<&O::max_attempt_delay, kPositive>},
      {{"max_in_flight", kInteger}, SetMaxInFlight},
      {{"ca_file", kText}, SetCaFile},
      {{"allow_insecure_http", kBoolean}, SetBoolean<&O::allow_insecure_http>},
      {{"enabled", kBoolean}, SetBoolean<&O::enabled>},
  };
}

const std::vector<OptionRow>& OptionTable() {
  static const std::vector<OptionRow> table = [] {
    std::vector<OptionRow> rows;
    for (const auto& theme : {PlaceRows(), RequestOptionRows(), AnswerRows(), LimitRows()}) {
      rows.insert(rows.end(), theme.begin(), theme.end());
    }
    return rows;
  }();
  return table;
}

const OptionRow* FindOption(std::string_view key) {
  for (const OptionRow& row : OptionTable()) {
    if (row.spec.key == key) return &row;
  }
  return nullptr;
}

Error UnknownOption(std::string_view key) {
  std::vector<std::string_view> keys;
  std::string known;
  for (const OptionRow& row : OptionTable()) {
    keys.push_back(row.spec.key);
    if (!known.empty()) known += ", ";
    known += row.spec.key;
  }
  const std::optional<std::string_view> near = NearWord(key, keys);
  std::string hint = near.has_value() ? "Did you mean " + QuoteWord(*near) + "? " : "";
  return {ErrorCode::kInvalidArgument, "unknown provider option " + QuoteWord(key),
          hint + "Known options are: " + known + "."};
}

bool IsInsecureUrl(const std::string& url) {
  const std::optional<ParsedUrl> parsed = ParseHttpUrl(url);
  return parsed.has_value() && parsed->scheme == "http" && !IsLoopbackHost(parsed->host);
}

// Only once all options are known is it clear what allow_insecure_http says.
Status CheckInsecureUrls(const SecretJson& object, bool allowed) {
  if (allowed) return Ok();
  for (const OptionRow& row : OptionTable()) {
    const SecretJson* value = row.spec.type == OptionType::kUrl ? FindMember(object, row.spec.key) : nullptr;
    if (value == nullptr || !IsInsecureUrl(std::string(TextOf(*value).value_or("")))) continue;
    return OptionError(row.spec.key, "uses plain http to a host that is not loopback",
                       "Use https. Plain http needs both the option allow_insecure_http and the administrator's "
                       "setting token_refresh.allow_insecure_http to be on.");
  }
  return Ok();
}

Error InvalidOptions(std::string message) { return {ErrorCode::kInvalidArgument, std::move(message), ""}; }

}  // namespace

const std::vector<OptionSpec>& ProviderOptionSpecs() {
  static const std::vector<OptionSpec> specs = [] {
    std::vector<OptionSpec> list;
    for (const OptionRow& row : OptionTable()) list.push_back(row.spec);
    return list;
  }();
  return specs;
}

Result<ProviderOptions> ParseProviderOptions(std::string_view json, bool insecure_http_allowed) {
  if (json.size() > kMaxOptionsBytes) return InvalidOptions("provider options must be at most 64 KiB long");
  if (IsNestedTooDeep(json)) return InvalidOptions("provider options must be nested at most 32 levels deep");
  const std::optional<SecretJson> object = ParseSecretJson(json);
  if (!object.has_value() || !object->is_object()) return InvalidOptions("provider options must be a JSON object");

  ProviderOptions options;
  for (const auto& [key, value] : *object->get_ptr<const SecretJson::object_t*>()) {
    const OptionRow* row = FindOption(key);
    if (row == nullptr) return UnknownOption(key);
    if (Status status = CheckOptionType(key, row->spec.type, value); !status) return status.error();
    if (Status status = row->set(key, value, options); !status) return status.error();
  }
  const bool insecure_allowed = options.allow_insecure_http && insecure_http_allowed;
  if (Status status = CheckInsecureUrls(*object, insecure_allowed); !status) return status.error();
  if (Status status = CheckRequestOptions(*object, options); !status) return status.error();
  return options;
}

Status CheckProviderClient(const ProviderOptions& options, bool has_client_id, bool has_client_secret) {
  if (options.token_endpoint.empty()) {
    return Error{ErrorCode::kInvalidArgument, "option \"token_endpoint\" is missing",
                 "Give options.token_endpoint, or a preset that has one."};
  }
  const std::string method(AuthMethodWords()[static_cast<size_t>(options.auth_method)]);
  const std::string reason = " with option \"token_endpoint_auth_method\" set to \"" + method + "\"";
  if (!has_client_id) return InvalidOptions("client_id is needed" + reason);
  const bool needs_secret = options.auth_method != ClientAuthMethod::kNone;
  if (needs_secret && !has_client_secret) {
    return Error{ErrorCode::kInvalidArgument, "client_secret is needed" + reason,
                 "A public client has none: set token_endpoint_auth_method to none."};
  }
  if (!needs_secret && has_client_secret) {
    return Error{ErrorCode::kInvalidArgument, "client_secret must not be given" + reason,
                 "Set token_endpoint_auth_method to client_secret_basic or client_secret_post to use it."};
  }
  return Ok();
}

}  // namespace token_refresh
