#include "core/tolerant_json.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>

#include "core/ascii.h"
#include "core/utf8.h"

namespace token_refresh {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
constexpr size_t kUnitLength = 6;  // of \uXXXX
constexpr std::string_view kEscapes = "\"\\/bfnrt";
constexpr std::string_view kMarks = "{}[],:\" \t\r\n";

bool IsEmptyValue(const SecretJson& value) {
  const auto* text = value.get_ptr<const SecretString*>();
  return value.is_null() || (text != nullptr && text->empty());
}

// Collects the members of the outermost object as the parser completes them, so that they are not
// lost when it gives up later on.
class MemberCollector {
 public:
  bool operator()(int depth, SecretJson::parse_event_t event, SecretJson& parsed) {
    using Event = SecretJson::parse_event_t;
    if (depth == 0 && event == Event::object_end) read_.whole = true;
    if (depth != 1) return true;
    if (event == Event::key) {
      name_ = SecretString(TextOf(parsed).value_or(std::string_view()));
      newest_.reset();
    } else if (name_.has_value() && event != Event::object_start && event != Event::array_start) {
      Add(std::move(parsed));
    }
    return true;
  }

  // The newest member of a document that makes no sense is in doubt: a text may have ended early, at a
  // quotation mark that was not escaped.
  TolerantJson Finish() {
    if (!read_.whole && newest_.has_value()) read_.value.erase(*newest_);
    return std::move(read_);
  }

 private:
  void Add(SecretJson value) {
    newest_ = name_;
    SecretJson& member = read_.value[*name_];
    if (!IsEmptyValue(value) || IsEmptyValue(member)) member = std::move(value);
  }

  TolerantJson read_{SecretJson::object(), false};
  std::optional<SecretString> name_;
  std::optional<SecretString> newest_;  // the member after which no other name was read
};

TolerantJson Parse(std::string_view json) {
  MemberCollector collector;
  [[maybe_unused]] const SecretJson document = SecretJson::parse(json.begin(), json.end(), std::ref(collector), false);
  return collector.Finish();
}

// ---- mending

// The UTF-16 code unit that \uXXXX at the beginning of text stands for.
std::optional<uint32_t> LeadingUnit(std::string_view text) {
  if (text.size() < kUnitLength || !text.starts_with("\\u")) return std::nullopt;
  uint32_t unit = 0;
  for (const char c : text.substr(2, 4)) {
    if (HexDigitValue(c) < 0) return std::nullopt;
    unit = unit * 16 + static_cast<uint32_t>(HexDigitValue(c));
  }
  return unit;
}

bool IsHighSurrogate(std::optional<uint32_t> unit) { return unit && *unit >= 0xD800 && *unit < 0xDC00; }
bool IsLowSurrogate(std::optional<uint32_t> unit) { return unit && *unit >= 0xDC00 && *unit < 0xE000; }

// The rest of a document on its way to a mended one.
struct Mending {
  std::string_view rest;
  SecretString mended;
  int depth = 0;                      // of objects and arrays within one another
  size_t comma = SecretString::npos;  // as long as nothing but white space follows it
  size_t last_member_end = 0;         // the last comma between members of the outermost object

  void Keep(size_t length) {
    mended += rest.substr(0, length);
    rest.remove_prefix(length);
  }
  void Replace(size_t length, std::string_view by) {
    mended += by;
    rest.remove_prefix(length);
  }
};

void MendEscape(Mending& work) {
  const std::optional<uint32_t> unit = LeadingUnit(work.rest);
  if (!unit.has_value()) {
    const bool known = work.rest.size() > 1 && kEscapes.find(work.rest[1]) != std::string_view::npos;
    return known ? work.Keep(2) : work.Replace(1, kReplacement);
  }
  if (IsHighSurrogate(unit) && IsLowSurrogate(LeadingUnit(work.rest.substr(kUnitLength)))) {
    return work.Keep(2 * kUnitLength);
  }
  if (IsHighSurrogate(unit) || IsLowSurrogate(unit)) return work.Replace(kUnitLength, kReplacement);
  work.Keep(kUnitLength);
}

// One character inside a text.
void MendCharacter(Mending& work) {
  if (work.rest.front() == '\\') return MendEscape(work);
  const size_t length = Utf8CharLength(work.rest);
  if (length == 0 || static_cast<unsigned char>(work.rest.front()) < 0x20) return work.Replace(1, kReplacement);
  work.Keep(length);
}

// What stands between texts up to the next mark, and is neither a mark nor white space.
void MendWord(Mending& work) {
  const std::string_view word = work.rest.substr(0, work.rest.find_first_of(kMarks));
  if (SecretJson::accept(word.begin(), word.end())) return work.Keep(word.size());
  work.Replace(word.size(), "null");
}

// One mark or one word between texts.
void MendOutside(Mending& work) {
  const char c = work.rest.front();
  const bool opens = c == '{' || c == '[';
  const bool closes = c == '}' || c == ']';
  if (closes && work.comma != SecretString::npos) work.mended[work.comma] = ' ';
  if (!IsAsciiSpace(c)) work.comma = SecretString::npos;
  if (c == ',') work.comma = work.mended.size();
  if (c == ',' && work.depth == 1) work.last_member_end = work.mended.size();
  work.depth += opens ? 1 : closes ? -1 : 0;
  kMarks.find(c) == std::string_view::npos ? MendWord(work) : work.Keep(1);
}

Mending Mend(std::string_view json) {
  Mending work{json, {}};
  work.mended.reserve(json.size() + 1);
  bool in_text = false;
  while (!work.rest.empty()) {
    if (work.rest.front() == '"') in_text = !in_text;
    if (in_text && work.rest.front() != '"') {
      MendCharacter(work);
    } else {
      MendOutside(work);
    }
  }
  return work;
}

// The members that are complete where a document breaks off; not whole when it does something else. Of a number
// nobody knows whether more digits were to come.
TolerantJson ParseBrokenOff(const Mending& work) {
  TolerantJson read;
  const bool in_number = !work.mended.empty() && IsAsciiDigit(work.mended.back());
  for (const size_t end : {in_number ? work.last_member_end : work.mended.size(), work.last_member_end}) {
    SecretString closed = work.mended.substr(0, end);
    closed += '}';
    read = Parse(closed);
    if (read.whole) break;
  }
  return read;
}

}  // namespace

TolerantJson ReadTolerantJson(std::string_view json) {
  TolerantJson read = Parse(json);
  if (read.whole) return read;
  const Mending work = Mend(json);
  read = Parse(work.mended);
  if (read.whole) return read;
  TolerantJson broken_off = ParseBrokenOff(work);
  if (!broken_off.whole) return read;
  broken_off.whole = false;
  return broken_off;
}

}  // namespace token_refresh
