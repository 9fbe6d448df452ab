// Answers of token endpoints, and how the tests of token_response read them.
#pragma once

#include <gtest/gtest.h>

#include <string_view>
#include <utility>
#include <variant>

#include "core/token_response.h"

namespace token_refresh {

inline constexpr Micros kNow = 1'700'000'000 * kSecond;  // Tue, 14 Nov 2023 22:13:20 GMT
inline constexpr char kSent[] = "fake-sent";

inline HttpResponse Answer(int status, std::string_view body, std::string_view content_type = "application/json") {
  HttpResponse response;
  response.status = status;
  response.body = Secret(body);
  response.content_type = content_type;
  return response;
}

inline std::variant<TokenSet, FailedAnswer> Read(const HttpResponse& response, const Provider& provider = {}) {
  return ReadTokenResponse(provider, response, {kSent}, kNow);
}

inline TokenSet Tokens(const HttpResponse& response, const Provider& provider = {}) {
  auto result = Read(response, provider);
  if (auto* failed = std::get_if<FailedAnswer>(&result)) {
    ADD_FAILURE() << failed->failure.message;
    return {};
  }
  return std::get<TokenSet>(std::move(result));
}

inline TokenSet Tokens(std::string_view body) { return Tokens(Answer(200, body)); }

inline FailedAnswer Refused(const HttpResponse& response, const Provider& provider = {}) {
  auto result = Read(response, provider);
  if (std::holds_alternative<TokenSet>(result)) {
    ADD_FAILURE() << "taken as a success";
    return {{FailureClass::kSuperseded, "", {}}, {}, {}, false};
  }
  return std::get<FailedAnswer>(std::move(result));
}

inline FailedAnswer Refused(std::string_view body) { return Refused(Answer(200, body)); }

inline Failure Failed(const HttpResponse& response, const Provider& provider = {}) {
  return Refused(response, provider).failure;
}

inline Provider ProviderWith(std::string_view options) {
  Provider provider;
  auto parsed = ParseProviderOptions(options, false);
  if (parsed) {
    provider.options = *std::move(parsed);
  } else {
    ADD_FAILURE() << parsed.error().message;
  }
  return provider;
}

}  // namespace token_refresh
