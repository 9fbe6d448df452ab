#include "core/request_payload.h"

#include "core/secret_json.h"

namespace token_refresh {
namespace {

std::optional<std::string_view> TextMember(const SecretJson& object, std::string_view name) {
  const SecretJson* member = FindMember(object, name);
  return member == nullptr ? std::nullopt : TextOf(*member);
}

}  // namespace

std::optional<CodePayload> ReadCodePayload(std::string_view json) {
  const std::optional<SecretJson> object = ParseSecretJson(json);
  const SecretJson* id = object.has_value() ? FindMember(*object, "authorization") : nullptr;
  if (id == nullptr || !id->is_number_unsigned()) return std::nullopt;
  const auto code = TextMember(*object, "code");
  const auto at = TextMember(*object, "at");
  if (!code.has_value() || !at.has_value()) return std::nullopt;
  CodePayload payload;
  payload.authorization = static_cast<int64_t>(*id->get_ptr<const uint64_t*>());
  payload.at = std::string(*at);
  payload.code = Secret(*code);
  payload.expected_provider = TextMember(*object, "provider");
  payload.iss = TextMember(*object, "iss");
  return payload;
}

std::optional<DiscoveryPayload> ReadDiscoveryPayload(std::string_view json) {
  const std::optional<SecretJson> object = ParseSecretJson(json);
  if (!object.has_value()) return std::nullopt;
  const auto issuer = TextMember(*object, "issuer");
  const SecretJson* options = FindMember(*object, "options");
  const SecretJson* has_secret = FindMember(*object, "has_client_secret");
  if (!issuer.has_value() || options == nullptr || has_secret == nullptr || !has_secret->is_boolean())
    return std::nullopt;
  const SecretString text = options->dump(-1, ' ', false, SecretJson::error_handler_t::replace);
  return DiscoveryPayload{std::string(*issuer), std::string(std::string_view(text)),
                          std::string(TextMember(*options, "token_endpoint_auth_method").value_or(std::string_view())),
                          *has_secret->get_ptr<const bool*>()};
}

}  // namespace token_refresh
