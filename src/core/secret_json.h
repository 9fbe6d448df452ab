// JSON that may hold secrets: nlohmann/json on an allocator that wipes what it
// frees, read with bounds and without exceptions. For the parsers of the core.
#pragma once

#include <openssl/crypto.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace token_refresh {

template <class T>
struct WipingAllocator {
  using value_type = T;

  WipingAllocator() = default;
  template <class U>
  WipingAllocator(const WipingAllocator<U>&) noexcept {}

  T* allocate(size_t count) { return std::allocator<T>{}.allocate(count); }
  void deallocate(T* memory, size_t count) noexcept {
    OPENSSL_cleanse(static_cast<void*>(memory), count * sizeof(T));
    std::allocator<T>{}.deallocate(memory, count);
  }
  template <class U>
  bool operator==(const WipingAllocator<U>&) const noexcept {
    return true;
  }
};

using SecretString = std::basic_string<char, std::char_traits<char>, WipingAllocator<char>>;
using SecretJson =
    nlohmann::basic_json<std::map, std::vector, SecretString, bool, int64_t, uint64_t, double, WipingAllocator>;

constexpr size_t kMaxJsonDepth = 32;

// Arrays and objects within one another, counted without parsing.
bool IsNestedTooDeep(std::string_view json);

// Nothing when it is not JSON (RFC 8259), or nested deeper than kMaxJsonDepth.
// The caller has bounded the size.
std::optional<SecretJson> ParseSecretJson(std::string_view json);

// The member of an object; nullptr when absent, or when it is no object.
const SecretJson* FindMember(const SecretJson& object, std::string_view key);

// The text of a JSON string, alive as long as the value; nothing for another type.
std::optional<std::string_view> TextOf(const SecretJson& value);

// "null", "a boolean", "a number", "text", "an array" or "an object".
std::string_view JsonTypeName(const SecretJson& value);

// RFC 6901, without the empty pointer (which names the whole document).
bool IsJsonPointer(std::string_view pointer);

// What the pointer names; nullptr when there is no such thing.
const SecretJson* ResolvePointer(const SecretJson& document, std::string_view pointer);

}  // namespace token_refresh
