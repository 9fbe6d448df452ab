// One line in the server log for each outcome that deserves a person's attention, as
// [provider][first 8 hex digits of SHA-256(subject)] ..., never a token. For the store; does not raise.
#pragma once

#include <string>

#include "core/store.h"
#include "pg/token_tables.h"

namespace token_refresh {

// A grant that is dead, or a client that the provider rejects. Everything else is in status and audit.
void LogOutcome(const Outcome& outcome, const std::string& provider_name);

// The refresh token in the row of claim does not open; error says why.
void LogUnopened(const Claim& claim, const std::string& provider_name, const TokenTable* table, const std::string& error);

// The answer of the provider could not be written to its table.
void LogRejected(const Outcome& outcome, const std::string& provider_name, const std::string& reason);

}  // namespace token_refresh
