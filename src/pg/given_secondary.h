// The tokens of one credential that came beside those that were asked for: as the answer has them, or as they were
// parked under their name. For secondary_tokens.cpp and park_secondary.cpp, connected to SPI.
#pragma once

#include <functional>

#include "pg/attempt.h"
#include "pg/credential_write.h"
#include "pg/parked_result.h"

namespace token_refresh {

// Plain data.
struct GivenSecondary {
  CredentialName name;
  Micros given_at, asked_at;
  bool existing_only;      // no new credential comes of them
  bool late;               // no time to try
  bool blind;              // nor to look at its row
  const TokenSet* tokens;  // null: they are parked
  OwnClient client;        // with tokens
  const ParkedTokens* parked;
  int64_t parked_id;
  char* client_id;  // with parked; null: none
};

// use(tokens, client) with what is given, opened. C++ code; errors: those of use, and what is parked does not open.
Status WithTokens(const GivenSecondary& given,
                  const std::function<Status(const TokenSet& tokens, const OwnClient& client)>& use);

// Of the client that they were given to; empty: the provider's.
std::string_view ClientIdOf(const GivenSecondary& given);

// Writes them into their row, or makes one. False: what is there is newer, or disconnected. May raise.
bool WriteGiven(const GivenSecondary& given);

// What the table has said to them, without the tokens; palloc'd.
char* DescribeRejection(const GivenSecondary& given, const CaughtError& error);

}  // namespace token_refresh
