#include "core/provider.h"

#include <utility>

#include "core/near_word.h"
#include "core/provider_option_rows.h"
#include "core/secret_json.h"

namespace token_refresh {
namespace {

constexpr size_t kMaxOptionsBytes = size_t{64} * 1024;
constexpr int64_t kMaxInFlight = 10000;

template <auto Member, IntervalBound kBound>
Status SetInterval(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return StoreInterval(key, value, kBound, options.*Member);
}

template <auto Member, IntervalBound kBound>
Status SetTiming(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return StoreInterval(key, value, kBound, options.timing.*Member);
}

Status Ignore(std::string_view, const SecretJson&, ProviderOptions&) { return Ok(); }

constexpr int64_t kMaxRequestsPerMinute = 1000 * 1000;

Status SetRequestsPerMinute(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  const Result<int64_t> number = ReadInteger(key, value, 1, kMaxRequestsPerMinute);
  if (!number) return number.error();
  options.requests_per_minute = static_cast<int>(*number);
  return Ok();
}

Status SetMaxInFlight(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  const Result<int64_t> number = ReadInteger(key, value, 1, kMaxInFlight);
  if (!number) return number.error();
  options.max_in_flight = static_cast<int>(*number);
  return Ok();
}

Status SetCaFile(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return ReadAbsolutePath(key, value, options.ca_file);
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
      {{"requests_per_minute", kInteger}, SetRequestsPerMinute},
      {{"ca_file", kText}, SetCaFile},
      {{"allow_special_addresses", kBoolean}, SetBoolean<&O::allow_special_addresses>},
      {{"allow_insecure_http", kBoolean}, SetBoolean<&O::allow_insecure_http>},
      {{"enabled", kBoolean}, SetBoolean<&O::enabled>},
  };
}

const std::vector<OptionRow>& OptionTable() {
  static const std::vector<OptionRow> table = [] {
    std::vector<OptionRow> rows = {{{"preset", OptionType::kText}, Ignore}};
    for (const auto& theme :
         {EndpointOptionRows(), ClientOptionRows(), RequestOptionRows(), AnswerOptionRows(), LimitRows()}) {
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
  if (Status status = FinishEndpoints(insecure_allowed, options); !status) return status.error();
  if (Status status = CheckRequestOptions(*object, options); !status) return status.error();
  if (Status status = CheckClientOptions(*object, options); !status) return status.error();
  if (Status status = CheckAnswerOptions(options); !status) return status.error();
  return options;
}

}  // namespace token_refresh
