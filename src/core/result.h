// Errors as values for the core: a Result<T> holds either a T or an Error.
// May be used by anyone. Nothing in src/core throws on purpose; what the
// standard library throws (bad_alloc) is caught at the wall in src/pg.
#pragma once

#include <cassert>
#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace token_refresh {

// Codes say what the caller can do about it, not where it happened.
enum class ErrorCode {
  kInvalidArgument,  // the input is wrong: tell whoever gave it
  kKeyMissing,       // no usable key: the administrator must provide one
  kNotAuthentic,     // a ciphertext does not open here: tampered or moved
  kUnavailable,      // try again later
  kInternal,         // a defect or an exhausted resource
};

// message is one sentence without a trailing full stop, and never holds a
// secret. hint, when set, says what to do.
struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
  std::string hint;
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}
  Result(Error error) : state_(std::move(error)) {}

  bool ok() const { return std::holds_alternative<T>(state_); }
  explicit operator bool() const { return ok(); }

  T& value() & { assert(ok()); return *std::get_if<T>(&state_); }
  const T& value() const& { assert(ok()); return *std::get_if<T>(&state_); }
  T&& value() && { assert(ok()); return std::move(*std::get_if<T>(&state_)); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }

  const Error& error() const { assert(!ok()); return *std::get_if<Error>(&state_); }

 private:
  std::variant<T, Error> state_;
};

struct Nothing {};
using Status = Result<Nothing>;
inline Status Ok() { return Status(Nothing{}); }

}  // namespace token_refresh
