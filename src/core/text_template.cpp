#include "core/text_template.h"

#include <algorithm>
#include <utility>

#include "core/ascii.h"

namespace token_refresh {
namespace {

constexpr std::string_view kOpening = "${";
constexpr std::string_view kLiteralOpening = "$${";
constexpr std::string_view kOr = "||";

Error Invalid(std::string message, std::string hint = "") {
  return {ErrorCode::kInvalidArgument, std::move(message), std::move(hint)};
}

Result<std::vector<std::string>> ReadNames(std::string_view inside) {
  std::vector<std::string> names;
  for (;;) {
    const size_t end = inside.find(kOr);
    const std::string_view name = TrimAsciiSpace(inside.substr(0, end));
    if (!IsValueName(name)) {
      return Invalid("holds ${...} with something else than a name in it",
                     "Write ${name}, ${name||other} for the first that is known, or $${ for ${ itself.");
    }
    names.emplace_back(name);
    if (end == std::string_view::npos) return names;
    inside.remove_prefix(end + kOr.size());
  }
}

std::string JoinNames(const std::vector<std::string>& names) {
  std::string joined;
  for (const std::string& name : names) joined += (joined.empty() ? "" : "||") + name;
  return joined;
}

}  // namespace

bool IsValueName(std::string_view name) {
  return !name.empty() && name.size() <= 64 && IsAsciiAlpha(name[0]) &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return IsAsciiAlphanumeric(c) || c == '_' || c == '-' || c == '.'; });
}

Result<TextTemplate> TextTemplate::Parse(std::string_view text) {
  TextTemplate parsed;
  const auto add_text = [&parsed](std::string_view plain) {
    if (plain.empty()) return;
    if (parsed.parts_.empty() || !parsed.parts_.back().names.empty()) parsed.parts_.emplace_back();
    parsed.parts_.back().text += plain;
  };
  while (!text.empty()) {
    const size_t opening = text.find(kOpening);
    if (opening == std::string_view::npos) {
      add_text(text);
      break;
    }
    if (opening > 0 && text.substr(opening - 1).starts_with(kLiteralOpening)) {
      add_text(text.substr(0, opening - 1));
      add_text(kOpening);
      text.remove_prefix(opening + kOpening.size());
      continue;
    }
    add_text(text.substr(0, opening));
    text.remove_prefix(opening + kOpening.size());
    const size_t end = text.find('}');
    if (end == std::string_view::npos) return Invalid("holds \"${\" without a \"}\"", "For ${ itself write $${.");
    Result<std::vector<std::string>> names = ReadNames(text.substr(0, end));
    if (!names) return names.error();
    parsed.parts_.push_back({"", *std::move(names)});
    text.remove_prefix(end + 1);
  }
  return parsed;
}

bool TextTemplate::has_places() const {
  return std::any_of(parts_.begin(), parts_.end(), [](const Part& part) { return !part.names.empty(); });
}

Result<std::string> TextTemplate::Expand(const FindValue& find) const {
  std::string expanded;
  for (const Part& part : parts_) {
    if (part.names.empty()) {
      expanded += part.text;
      continue;
    }
    const Result<std::string> value = ValueOf(part, find);
    if (!value) return value.error();
    expanded += *value;
  }
  return expanded;
}

Result<std::string> ValueOf(const TextTemplate::Part& place, const FindValue& find) {
  for (const std::string& name : place.names) {
    std::optional<std::string> value = find(name);
    if (value.has_value() && !value->empty()) return *std::move(value);
  }
  return Invalid("there is no value for ${" + JoinNames(place.names) + "}");
}

Result<std::string> ExpandText(std::string_view text, const FindValue& find) {
  const Result<TextTemplate> parsed = TextTemplate::Parse(text);
  if (!parsed) return parsed.error();
  return parsed->Expand(find);
}

}  // namespace token_refresh
