#include "core/form_params.h"

#include <algorithm>
#include <utility>

#include "core/ascii.h"

namespace token_refresh {
namespace {

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

void FormParams::Remove(std::string_view name) {
  std::erase_if(params_, [&](const Param& param) { return param.name == name; });
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
