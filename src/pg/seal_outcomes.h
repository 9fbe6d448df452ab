// What an outcome brings, sealed: as its token table stores it, or for parked_result. For store_save.cpp and
// store_parked.cpp, from C++ code outside of transactions.
#pragma once

#include <span>
#include <vector>

#include "core/result.h"
#include "core/store.h"
#include "core/token_cipher.h"
#include "pg/save_statements.h"

namespace token_refresh {

// The cipher of a table that has been read by this process, as it has when one of its rows was claimed.
TokenCipher CipherOf(int32_t token_table);

// Whether the refresh token in the row is of no use any more: the provider has replaced it, now or when the
// result that is parked was given.
bool Rotated(const Outcome& outcome);

// As long as outcomes; filled in for those of which. Errors: no key to seal with.
Result<std::vector<SealedTokens>> SealForTable(std::span<const Outcome> outcomes, std::span<const SaveTarget> targets,
                                               const std::vector<size_t>& which);
Result<std::vector<SealedTokens>> SealForParking(std::span<const Outcome> outcomes, std::span<const SaveTarget> targets,
                                                 const std::vector<size_t>& which);

// SHA-256 of a token as its table stores it, as in parked_result.replaces; empty: of none.
std::string StoredDigest(std::string_view stored);

}  // namespace token_refresh
