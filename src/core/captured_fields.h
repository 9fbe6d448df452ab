// Fields of a provider's answer that later requests need (option captured_fields), as one JSON object of texts
// that is stored with the credential. For the readers of answers, for store_credential, and for the engine.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/provider.h"
#include "core/secret_json.h"

namespace token_refresh {

constexpr size_t kMaxCapturedValue = 1024;

// Texts, numbers and booleans, each as a text of clean UTF-8 of at most kMaxCapturedValue bytes; warnings name
// what is something else. Empty when there is nothing.
std::string CaptureFields(const AnswerDialect& dialect, const SecretJson& answer, std::vector<std::string>& warnings);

// The same of a token response as an application has it; of what cannot be read, nothing.
std::string CaptureFields(const ProviderOptions& options, std::string_view token_response);

// What is stored, with what is new in place of the old. Either may be empty.
std::string MergeCaptured(std::string_view stored, std::string_view fresh);

}  // namespace token_refresh
