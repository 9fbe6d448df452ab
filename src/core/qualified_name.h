// A name with its schema, as SQL writes it. For options that name a function.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace token_refresh {

// PostgreSQL's NAMEDATALEN - 1.
constexpr size_t kMaxIdentifierBytes = 63;

// As the catalog has them: without quotation marks, and folded to lower case
// where there were none.
struct QualifiedName {
  std::string schema;
  std::string name;

  bool operator==(const QualifiedName&) const = default;
};

// Exactly two identifiers with a dot between them, each of 1 to 63 bytes, plain or
// between quotation marks (a doubled one stands for itself). Nothing else: no
// white space around them, no database in front, no arguments behind.
std::optional<QualifiedName> ParseQualifiedName(std::string_view text);

}  // namespace token_refresh
