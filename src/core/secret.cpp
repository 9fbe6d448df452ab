#include "core/secret.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace token_refresh {
namespace {

constexpr size_t kSmallestGrowth = 64;

// memcpy must not be given the null pointer of an empty view.
void CopyBytes(char* to, std::string_view from) {
  if (!from.empty()) std::memcpy(to, from.data(), from.size());
}

}  // namespace

Secret::Secret(std::string_view bytes) {
  if (bytes.empty()) return;
  data_ = new char[bytes.size()];
  size_ = capacity_ = bytes.size();
  CopyBytes(data_, bytes);
}

Secret Secret::TakeFrom(std::string& bytes) {
  Secret taken{std::string_view(bytes)};
  WipeString(bytes);
  return taken;
}

Secret::Secret(Secret&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      capacity_(std::exchange(other.capacity_, 0)) {}

Secret& Secret::operator=(Secret&& other) noexcept {
  if (this == &other) return *this;
  Wipe();
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  capacity_ = std::exchange(other.capacity_, 0);
  return *this;
}

bool Secret::Equals(std::string_view other) const {
  if (size_ != other.size()) return false;
  return size_ == 0 || CRYPTO_memcmp(data_, other.data(), size_) == 0;
}

void Secret::Append(std::string_view bytes) {
  if (bytes.size() <= capacity_ - size_) {
    CopyBytes(data_ + size_, bytes);
    size_ += bytes.size();
    return;
  }
  const size_t capacity = std::max({size_ + bytes.size(), 2 * capacity_, kSmallestGrowth});
  char* grown = new char[capacity];
  CopyBytes(grown, view());
  // bytes may point into the old memory, so that is wiped last.
  CopyBytes(grown + size_, bytes);
  const size_t size = size_ + bytes.size();
  Wipe();
  data_ = grown;
  size_ = size;
  capacity_ = capacity;
}

void Secret::Wipe() {
  if (data_ != nullptr) {
    OPENSSL_cleanse(data_, capacity_);
    delete[] data_;
  }
  data_ = nullptr;
  size_ = 0;
  capacity_ = 0;
}

void WipeString(std::string& bytes) {
  // A string that was longer once may hold the rest of a secret behind its end.
  bytes.resize(bytes.capacity());
  OPENSSL_cleanse(bytes.data(), bytes.size());
  bytes.clear();
}

}  // namespace token_refresh
