// Runs token_refresh.key_command. For keys.cpp only; from C++ code, since it does not call PostgreSQL.
#pragma once

#include "core/result.h"
#include "core/secret.h"

namespace token_refresh {

// Bounds how long a session or the refresher can be kept waiting by the command.
constexpr int kKeyCommandSeconds = 10;
// More text than any key ring has.
constexpr size_t kMaxKeyText = 64 * 1024;

// What the command, run by the shell in a process group of its own, prints. It has ended when this
// returns, or has been killed with its group.
// Errors: kKeyMissing when it fails, prints too much or takes longer than kKeyCommandSeconds; kUnavailable when
// this process is to cancel its statement or to end: the pending interrupt is left for PostgreSQL to serve.
Result<Secret> RunKeyCommand(const char* command);

}  // namespace token_refresh
