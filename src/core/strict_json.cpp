#include "core/strict_json.h"

#include <array>
#include <string>
#include <utility>

namespace token_refresh {
namespace {

constexpr size_t kMaxNumberChars = 512;
constexpr size_t kMaxExponent = 400;

// Whether a number that was read as zero is one, and not merely too small for a double.
bool IsWrittenAsZero(std::string_view number) {
  return number.substr(0, number.find_first_of("eE")).find_first_of("123456789") == std::string_view::npos;
}

// Of a zero it says nothing, and is still too much for the server.
bool IsExponentBounded(std::string_view number) {
  const size_t e = number.find_first_of("eE");
  if (e == std::string_view::npos) return true;
  size_t exponent = 0;
  for (const char digit : number.substr(number.find_first_of("0123456789", e))) {
    exponent = exponent * 10 + (digit - '0');
    if (exponent > kMaxExponent) return false;
  }
  return true;
}

bool HasNul(std::string_view text) { return text.find('\0') != std::string_view::npos; }

// Takes the parser's events, puts the document together, and stops the parser by returning false.
class Builder {
 public:
  SecretJson TakeDocument() { return std::move(document_); }

  bool null() { return Put(nullptr) != nullptr; }
  bool boolean(bool value) { return Put(value) != nullptr; }
  bool number_integer(int64_t value) { return Put(value) != nullptr; }
  bool number_unsigned(uint64_t value) { return Put(value) != nullptr; }
  bool number_float(double value, std::string_view text) {
    if (text.size() > kMaxNumberChars || !IsExponentBounded(text) || (value == 0 && !IsWrittenAsZero(text)))
      return false;
    return Put(value) != nullptr;
  }
  bool string(SecretString& value) { return !HasNul(value) && Put(std::move(value)) != nullptr; }
  bool binary(SecretJson::binary_t&) { return false; }

  bool start_object(size_t) { return Open(SecretJson::object()); }
  bool start_array(size_t) { return depth_ > 0 && Open(SecretJson::array()); }
  bool end_object() { return Close(); }
  bool end_array() { return Close(); }

  bool key(SecretString& name) {
    if (HasNul(name)) return false;
    auto* members = open_[depth_ - 1]->get_ptr<SecretJson::object_t*>();
    const auto [member, is_new] = members->emplace(std::move(name), nullptr);
    member_ = &member->second;
    return is_new;
  }

  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) { return false; }

 private:
  // Where the value is now; null when there is no place for it, outside the object.
  SecretJson* Put(SecretJson value) {
    if (depth_ == 0) return nullptr;
    if (auto* elements = open_[depth_ - 1]->get_ptr<SecretJson::array_t*>(); elements != nullptr) {
      return &elements->emplace_back(std::move(value));
    }
    *member_ = std::move(value);
    return member_;
  }

  bool Open(SecretJson container) {
    if (depth_ == open_.size()) return false;
    if (depth_ == 0) document_ = std::move(container);
    open_[depth_] = depth_ == 0 ? &document_ : Put(std::move(container));
    ++depth_;
    return true;
  }

  bool Close() {
    --depth_;
    return true;
  }

  SecretJson document_;
  // The open objects and arrays, outermost first. They stay where they are: an array does not grow
  // while one of its elements is open.
  std::array<SecretJson*, kMaxJsonDepth> open_{};
  size_t depth_ = 0;
  SecretJson* member_ = nullptr;  // of the innermost open object, the newest
};

}  // namespace

std::optional<SecretJson> ParseStrictObject(std::string_view json) {
  // The parser would skip a byte order mark, and take a NUL for the end and not look at what follows.
  if (json.starts_with('\xEF') || HasNul(json)) return std::nullopt;
  Builder builder;
  if (!SecretJson::sax_parse(json.begin(), json.end(), &builder)) return std::nullopt;
  return builder.TakeDocument();
}

}  // namespace token_refresh
