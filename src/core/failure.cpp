#include "core/failure.h"

#include <array>

namespace token_refresh {
namespace {

struct FailureWord {
  FailureClass failure;
  std::string_view word;
};

constexpr std::array<FailureWord, 7> kFailureWords = {{
    {FailureClass::kTransient, "transient"},
    {FailureClass::kRateLimited, "rate_limited"},
    {FailureClass::kReauth, "reauth"},
    {FailureClass::kClientConfig, "client_config"},
    {FailureClass::kTooEarly, "too_early"},
    {FailureClass::kSuperseded, "superseded"},
    {FailureClass::kLostResponse, "lost_response"},
}};

}  // namespace

std::string_view FailureName(FailureClass failure) {
  for (const FailureWord& row : kFailureWords) {
    if (row.failure == failure) return row.word;
  }
  return "transient";
}

std::optional<FailureClass> ParseFailureName(std::string_view name) {
  for (const FailureWord& row : kFailureWords) {
    if (row.word == name) return row.failure;
  }
  return std::nullopt;
}

}  // namespace token_refresh
