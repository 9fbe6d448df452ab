// Provider options in tests: what is accepted, and what is refused.
#pragma once

#include <gtest/gtest.h>

#include <string_view>
#include <utility>

#include "core/provider.h"

namespace token_refresh {

inline ProviderOptions ParsedOptions(std::string_view json) {
  Result<ProviderOptions> options = ParseProviderOptions(json, false);
  if (!options) {
    ADD_FAILURE() << json << ": " << options.error().message;
    return {};
  }
  return *std::move(options);
}

inline Error RefusedOptions(std::string_view json) {
  const Result<ProviderOptions> options = ParseProviderOptions(json, false);
  if (options) {
    ADD_FAILURE() << json << " was accepted";
    return {};
  }
  EXPECT_EQ(options.error().code, ErrorCode::kInvalidArgument);
  return options.error();
}

}  // namespace token_refresh
