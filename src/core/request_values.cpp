#include "core/request_values.h"

#include <openssl/rand.h>

#include <array>

#include "core/encoding.h"

namespace token_refresh {

const std::vector<std::string_view>& GeneratedValueNames() {
  static const std::vector<std::string_view> names = {"uuid", "now", "now_ms", "client_id", "subject"};
  return names;
}

std::optional<std::string> MakeUuidText() {
  std::array<uint8_t, 16> bytes;
  if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1) return std::nullopt;
  bytes[6] = static_cast<uint8_t>((bytes[6] & 0x0F) | 0x40);
  bytes[8] = static_cast<uint8_t>((bytes[8] & 0x3F) | 0x80);
  std::string text = HexEncode(BytesOf(bytes));
  for (const size_t hyphen : {8, 13, 18, 23}) text.insert(hyphen, 1, '-');
  return text;
}

RequestValues::RequestValues(const Provider& provider, std::string_view subject, std::string_view captured, Micros now)
    : provider_(provider), subject_(subject), now_(now) {
  if (!captured.empty()) captured_ = ParseSecretJson(captured);
}

std::optional<std::string> RequestValues::Find(std::string_view name) const {
  if (name == "now") return std::to_string(now_ / kSecond);
  if (name == "now_ms") return std::to_string(now_ / kMillisecond);
  if (name == "client_id") return provider_.client_id;
  if (name == "subject") return std::string(subject_);
  if (name == "uuid") {
    if (!uuid_.has_value()) uuid_ = MakeUuidText();
    return uuid_;
  }
  // What was captured under another name of the options, once, decides nothing any more.
  const bool may_be_captured = provider_.options.answer.captured_fields.contains(std::string(name));
  const SecretJson* captured = may_be_captured && captured_.has_value() ? FindMember(*captured_, name) : nullptr;
  if (captured != nullptr && !TextOf(*captured).value_or("").empty()) return std::string(*TextOf(*captured));
  const auto variable = provider_.options.request.variables.find(std::string(name));
  if (variable == provider_.options.request.variables.end()) return std::nullopt;
  return variable->second;
}

}  // namespace token_refresh
