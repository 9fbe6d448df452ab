// How API tokens begin that something else has made and whose hashes were imported: what does not begin so, and does
// not have the checksum of our own, is refused without a look-up. Cached in each process until
// imported_token_prefix changes. For sessions; may raise.
#pragma once

#include <string_view>

namespace token_refresh {

bool HasImportedPrefix(std::string_view token);

}  // namespace token_refresh
