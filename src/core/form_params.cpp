#include "core/form_params.h"

#include <algorithm>
#include <utility>

#include "core/ascii.h"

namespace token_refresh {
namespace {

void AppendJsonText(Secret& out, std::string_view text) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  out.Append("\"");
  while (!text.empty()) {
    const auto odd = std::find_if(text.begin(), text.end(),
                                  [](char c) { return c == '"' || c == '\\' || static_cast<unsigned char>(c) < 0x20; });
    const auto plain = static_cast<size_t>(odd - text.begin());
    out.Append(text.substr(0, plain));
    text.remove_prefix(plain);
    if (text.empty()) break;
    const auto byte = static_cast<unsigned char>(text.front());
    const char escape[] = {'\\', 'u', '0', '0', kDigits[byte >> 4], kDigits[byte & 0xF]};
    out.Append({escape, sizeof escape});
    text.remove_prefix(1);
  }
  out.Append("\"");
}

bool StaysInForm(char c) { return IsAsciiAlphanumeric(c) || c == '*' || c == '-' || c == '.' || c == '_'; }

}  // namespace

void AppendFormEncoded(Secret& out, std::string_view value) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  while (!value.empty()) {
    const auto odd = std::find_if_not(value.begin(), value.end(), StaysInForm);
    const size_t plain = static_cast<size_t>(odd - value.begin());
    out.Append(value.substr(0, plain));
    value.remove_prefix(plain);
    if (value.empty()) return;
    const auto byte = static_cast<unsigned char>(value.front());
    const char escape[] = {'%', kDigits[byte >> 4], kDigits[byte & 0xF]};
    out.Append(byte == ' ' ? std::string_view("+") : std::string_view(escape, sizeof escape));
    value.remove_prefix(1);
  }
}

void FormParams::AddOwned(std::string_view name, Secret value) {
  owned_.push_back(std::move(value));
  Add(name, owned_.back().view());
}

void FormParams::Set(std::string_view name, std::string_view value) {
  const auto known = std::find_if(params_.begin(), params_.end(), [&](const Param& p) { return p.name == name; });
  if (known == params_.end()) return Add(name, value);
  known->value = value;
}

void FormParams::SetOwned(std::string_view name, Secret value) {
  owned_.push_back(std::move(value));
  Set(name, owned_.back().view());
}

void FormParams::Remove(std::string_view name) {
  std::erase_if(params_, [&](const Param& param) { return param.name == name; });
}

void FormParams::Rename(const std::map<std::string, std::string>& names) {
  for (Param& param : params_) {
    if (const auto other = names.find(std::string(param.name)); other != names.end()) param.name = other->second;
  }
}

Secret FormParams::EncodeJson() const {
  Secret body("{");
  for (auto param = params_.begin(); param != params_.end(); ++param) {
    const bool said_again =
        std::any_of(param + 1, params_.end(), [&](const Param& later) { return later.name == param->name; });
    if (said_again) continue;
    if (body.size() > 1) body.Append(",");
    AppendJsonText(body, param->name);
    body.Append(":");
    AppendJsonText(body, param->value);
  }
  body.Append("}");
  return body;
}

Secret FormParams::Encode() const {
  Secret body;
  for (const Param& param : params_) {
    if (!body.empty()) body.Append("&");
    AppendFormEncoded(body, param.name);
    body.Append("=");
    AppendFormEncoded(body, param.value);
  }
  return body;
}

}  // namespace token_refresh
