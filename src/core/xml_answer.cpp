#include "core/xml_answer.h"

#include <pugixml.hpp>
#include <utility>

#include "core/ascii.h"
#include "core/utf8.h"

namespace token_refresh {
namespace {

constexpr size_t kMaxReferenceDigits = 7;

// The parser ends a text at a NUL, and counts references beyond 32 bits round to one.
bool MayHoldNul(std::string_view xml) {
  if (xml.find('\0') != std::string_view::npos) return true;
  for (size_t at = xml.find("&#"); at != std::string_view::npos; at = xml.find("&#", at)) {
    at += 2;
    if (at < xml.size() && xml[at] == 'x') ++at;
    while (at < xml.size() && xml[at] == '0') ++at;
    size_t digits = 0;
    while (at < xml.size() && HexDigitValue(xml[at]) >= 0) ++at, ++digits;
    if (digits == 0 || digits > kMaxReferenceDigits) return true;
  }
  return false;
}

bool IsElement(const pugi::xml_node& node) { return node.type() == pugi::node_element; }

bool HasElements(const pugi::xml_node& element) {
  for (const pugi::xml_node child : element.children()) {
    if (IsElement(child)) return true;
  }
  return false;
}

SecretString TextOfElement(const pugi::xml_node& element) {
  SecretString text;
  for (const pugi::xml_node child : element.children()) text += child.value();
  return ReplaceInvalidUtf8(TrimAsciiSpace(text));
}

void Add(SecretJson& object, SecretString name, SecretJson value) {
  const auto [known, added] = object.emplace(std::move(name), value);
  if (added) return;
  if (!known->is_array()) *known = SecretJson::array({std::move(*known)});
  known->push_back(std::move(value));
}

// False when it is nested too deep.
bool ReadElement(const pugi::xml_node& element, size_t depth, SecretJson& value) {
  if (!HasElements(element)) {
    value = TextOfElement(element);
    return true;
  }
  if (depth == kMaxJsonDepth) return false;
  value = SecretJson::object();
  for (const pugi::xml_node child : element.children()) {
    if (!IsElement(child)) continue;
    SecretJson inside;
    if (!ReadElement(child, depth + 1, inside)) return false;
    Add(value, ReplaceInvalidUtf8(child.name()), std::move(inside));
  }
  return true;
}

}  // namespace

AnswerBody ReadXmlAnswer(std::string_view xml) {
  for (const std::string_view mark : {"<!DOCTYPE", "<!doctype", "<!Doctype"}) {
    if (xml.find(mark) != std::string_view::npos) return {BodyKind::kMarkup, {}};
  }
  if (MayHoldNul(xml)) return {BodyKind::kUnreadable, {}};
  // Parsed where it stands: what the parser has of its own points into this, which is wiped.
  SecretString buffer(xml);
  pugi::xml_document document;
  const pugi::xml_parse_result parsed =
      document.load_buffer_inplace(buffer.data(), buffer.size(), pugi::parse_default, pugi::encoding_utf8);
  const pugi::xml_node root = document.document_element();
  if (!parsed || root.empty() || root.next_sibling()) return {BodyKind::kUnreadable, {}};
  if (AsciiLower(root.name()) == "html") return {BodyKind::kMarkup, {}};
  SecretJson value;
  if (!ReadElement(root, 1, value)) return {BodyKind::kTooDeep, {}};
  SecretJson fields = SecretJson::object();
  Add(fields, ReplaceInvalidUtf8(root.name()), std::move(value));
  return {BodyKind::kObject, std::move(fields)};
}

}  // namespace token_refresh
