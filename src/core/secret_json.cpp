#include "core/secret_json.h"

#include <charconv>

#include "core/ascii.h"

namespace token_refresh {
namespace {

// Undoes ~1 and ~0 in one reference token of a pointer.
std::string UnescapeToken(std::string_view token) {
  std::string plain;
  for (size_t i = 0; i < token.size(); ++i) {
    if (token[i] == '~' && i + 1 < token.size()) {
      plain += token[++i] == '1' ? '/' : '~';
    } else {
      plain += token[i];
    }
  }
  return plain;
}

const SecretJson* FindElement(const SecretJson& array, std::string_view token) {
  if (token.empty() || (token.size() > 1 && token[0] == '0')) return nullptr;
  size_t index = 0;
  const auto [end, error] = std::from_chars(token.data(), token.data() + token.size(), index);
  if (error != std::errc() || end != token.data() + token.size() || index >= array.size()) return nullptr;
  return &array[index];
}

}  // namespace

bool IsNestedTooDeep(std::string_view json) {
  size_t depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxJsonDepth) return true;
    } else if ((c == '}' || c == ']') && depth > 0) {
      --depth;
    }
  }
  return false;
}

std::optional<SecretJson> ParseSecretJson(std::string_view json) {
  if (IsNestedTooDeep(json)) return std::nullopt;
  SecretJson parsed = SecretJson::parse(json.begin(), json.end(), nullptr, false);
  if (parsed.is_discarded()) return std::nullopt;
  return parsed;
}

const SecretJson* FindMember(const SecretJson& object, std::string_view key) {
  const auto* members = object.get_ptr<const SecretJson::object_t*>();
  if (members == nullptr) return nullptr;
  const auto found = members->find(key);
  return found == members->end() ? nullptr : &found->second;
}

std::optional<std::string_view> TextOf(const SecretJson& value) {
  const auto* text = value.get_ptr<const SecretString*>();
  if (text == nullptr) return std::nullopt;
  return std::string_view(*text);
}

std::string_view JsonTypeName(const SecretJson& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "a boolean";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "text";
  return value.is_array() ? "an array" : "an object";
}

bool IsJsonPointer(std::string_view pointer) {
  if (pointer.empty() || pointer[0] != '/') return false;
  for (size_t i = 0; i < pointer.size(); ++i) {
    if (pointer[i] != '~') continue;
    if (i + 1 == pointer.size() || (pointer[i + 1] != '0' && pointer[i + 1] != '1')) return false;
  }
  return true;
}

const SecretJson* ResolvePointer(const SecretJson& document, std::string_view pointer) {
  if (!IsJsonPointer(pointer)) return nullptr;
  const SecretJson* here = &document;
  while (here != nullptr && !pointer.empty()) {
    pointer.remove_prefix(1);
    const std::string_view token = pointer.substr(0, pointer.find('/'));
    pointer.remove_prefix(token.size());
    here = here->is_array() ? FindElement(*here, token) : FindMember(*here, UnescapeToken(token));
  }
  return here;
}

}  // namespace token_refresh
