// Secret: bytes that must not leak. Move-only, wiped when it dies, and it cannot
// be streamed, compared with == or formatted by accident. Anyone may hold one.
// Copying is explicit (Clone), reading is explicit (view).
#pragma once

#include <cstddef>
#include <ostream>
#include <string>
#include <string_view>

namespace token_refresh {

class Secret {
 public:
  Secret() = default;
  explicit Secret(std::string_view bytes);
  // Takes the content over and wipes the source.
  static Secret TakeFrom(std::string& bytes);
  ~Secret() { Wipe(); }

  Secret(Secret&& other) noexcept;
  Secret& operator=(Secret&& other) noexcept;
  Secret(const Secret&) = delete;
  Secret& operator=(const Secret&) = delete;
  friend std::ostream& operator<<(std::ostream&, const Secret&) = delete;

  Secret Clone() const { return Secret(view()); }
  std::string_view view() const { return {data_, size_}; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  // Constant time in the content; the lengths may be learned.
  bool Equals(std::string_view other) const;

  // Grows by copying into fresh memory and wiping the old.
  void Append(std::string_view bytes);
  void Wipe();

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

// Wipes a string that held a secret for a moment (a copy another library made).
void WipeString(std::string& bytes);

}  // namespace token_refresh
