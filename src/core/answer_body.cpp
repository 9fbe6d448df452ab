#include "core/answer_body.h"

#include <utility>

#include "core/ascii.h"
#include "core/http.h"
#include "core/tolerant_json.h"
#include "core/utf8.h"
#include "core/xml_answer.h"

namespace token_refresh {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
// What some put in front of JSON, so that a browser cannot be made to run it as a script.
constexpr std::string_view kScriptGuard = ")]}'";
constexpr size_t kMaxFormName = 64;

AnswerBody ReadJson(std::string_view text) {
  if (IsNestedTooDeep(text)) return {BodyKind::kTooDeep, {}};
  TolerantJson read = ReadTolerantJson(text);
  if (read.whole) return {BodyKind::kObject, std::move(read.value)};
  return {read.value.empty() ? BodyKind::kUnreadable : BodyKind::kDamaged, std::move(read.value)};
}

// An undecodable escape stays as it is, like in a browser.
SecretString DecodeFormText(std::string_view text) {
  SecretString decoded;
  decoded.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const bool escape =
        text[i] == '%' && i + 2 < text.size() && HexDigitValue(text[i + 1]) >= 0 && HexDigitValue(text[i + 2]) >= 0;
    if (escape) {
      decoded += static_cast<char>(HexDigitValue(text[i + 1]) * 16 + HexDigitValue(text[i + 2]));
      i += 2;
    } else {
      decoded += text[i] == '+' ? ' ' : text[i];
    }
  }
  return decoded;
}

bool IsFormName(std::string_view name) {
  if (name.empty() || name.size() > kMaxFormName) return false;
  for (const char c : name) {
    if (!IsAsciiAlphanumeric(c) && c != '_' && c != '-' && c != '.' && c != '%') return false;
  }
  return true;
}

// Prose with a "=" in it is no form: every pair needs a plain name, and white
// space is always encoded.
AnswerBody ReadForm(std::string_view text) {
  SecretJson fields = SecretJson::object();
  while (!text.empty()) {
    const std::string_view pair = text.substr(0, text.find('&'));
    text.remove_prefix(pair.size() == text.size() ? pair.size() : pair.size() + 1);
    if (pair.empty()) continue;
    const size_t equals = pair.find('=');
    const std::string_view name = pair.substr(0, equals);
    if (equals == std::string_view::npos || !IsFormName(name)) return {BodyKind::kUnreadable, {}};
    for (const char c : pair) {
      if (IsAsciiSpace(c)) return {BodyKind::kUnreadable, {}};
    }
    SecretString value = ReplaceInvalidUtf8(DecodeFormText(pair.substr(equals + 1)));
    fields.emplace(ReplaceInvalidUtf8(DecodeFormText(name)), std::move(value));
  }
  return {fields.empty() ? BodyKind::kUnreadable : BodyKind::kObject, std::move(fields)};
}

}  // namespace

SecretString ReplaceInvalidUtf8(std::string_view text) {
  SecretString valid;
  valid.reserve(text.size());
  while (!text.empty()) {
    const size_t length = Utf8CharLength(text);
    valid += length == 0 ? std::string_view("\xEF\xBF\xBD") : text.substr(0, length);
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return valid;
}

AnswerBody ReadAnswerBody(std::string_view body, AnswerFormat format) {
  if (body.size() > kMaxResponseBytes) return {BodyKind::kTooLarge, {}};
  if (body.starts_with(kByteOrderMark)) body.remove_prefix(kByteOrderMark.size());
  std::string_view text = TrimAsciiSpace(body);
  if (text.starts_with(kScriptGuard)) {
    text.remove_prefix(kScriptGuard.size());
    if (text.starts_with(',')) text.remove_prefix(1);
    text = TrimAsciiSpace(text);
  }
  if (text.empty()) return {BodyKind::kEmpty, {}};
  if (text.front() == '<')
    return format == AnswerFormat::kXml ? ReadXmlAnswer(text) : AnswerBody{BodyKind::kMarkup, {}};
  if (text.front() == '{') return ReadJson(text);
  return ReadForm(text);
}

}  // namespace token_refresh
