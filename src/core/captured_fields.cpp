#include "core/captured_fields.h"

#include <optional>

#include "core/http.h"
#include "core/utf8.h"

namespace token_refresh {
namespace {

// In ASCII, which a database in any encoding takes.
std::string Dump(const SecretJson& value) {
  const SecretString text = value.dump(-1, ' ', true, SecretJson::error_handler_t::replace);
  return std::string(text);
}

std::optional<std::string> ScalarText(const SecretJson& value) {
  if (const std::optional<std::string_view> text = TextOf(value); text.has_value()) return std::string(*text);
  if (value.is_number() || value.is_boolean()) return Dump(value);
  return std::nullopt;
}

SecretJson ObjectOf(std::string_view json) {
  std::optional<SecretJson> parsed = ParseSecretJson(json);
  return parsed.has_value() && parsed->is_object() ? *std::move(parsed) : SecretJson::object();
}

}  // namespace

std::string CaptureFields(const AnswerDialect& dialect, const SecretJson& answer, std::vector<std::string>& warnings) {
  SecretJson captured = SecretJson::object();
  for (const auto& [name, pointer] : dialect.captured_fields) {
    const SecretJson* value = ResolvePointer(answer, pointer);
    if (value == nullptr || value->is_null()) continue;
    const std::optional<std::string> text = ScalarText(*value);
    if (!text.has_value() || text->size() > kMaxCapturedValue || !IsCleanText(*text)) {
      warnings.push_back(name + " is not a short text; not captured");
    } else if (!text->empty()) {
      captured[SecretString(name)] = SecretString(*text);
    }
  }
  return captured.empty() ? std::string() : Dump(captured);
}

std::string CaptureFields(const ProviderOptions& options, std::string_view token_response) {
  if (options.answer.captured_fields.empty() || token_response.size() > kMaxResponseBytes) return {};
  std::vector<std::string> warnings;
  return CaptureFields(options.answer, ObjectOf(token_response), warnings);
}

std::string MergeCaptured(std::string_view stored, std::string_view fresh) {
  if (fresh.empty()) return std::string(stored);
  SecretJson merged = ObjectOf(stored);
  merged.update(ObjectOf(fresh));
  return merged.empty() ? std::string() : Dump(merged);
}

}  // namespace token_refresh
