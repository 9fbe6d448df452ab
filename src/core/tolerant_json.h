// JSON as servers really send it. For the reading of providers' answers; what people hand over
// is read strictly, by ParseSecretJson.
#pragma once

#include <string_view>

#include "core/secret_json.h"

namespace token_refresh {

struct TolerantJson {
  SecretJson value;    // an object; of another document, or of none, an empty one
  bool whole = false;  // false: value holds only the members that stand before the damage
};

// Beyond RFC 8259 these are read, because they leave no doubt about the rest:
//   inside a text, bytes that are no UTF-8, raw control characters, unknown escapes and halves
//   of surrogate pairs: each becomes U+FFFD, which no usable token holds;
//   words that JSON does not have (NaN, Infinity, 1e999): null;
//   a comma before a closing bracket, and whatever follows the object: ignored.
// Of the object's members with one name the last one counts, unless it is null or "" and an earlier one is not.
// The caller has bounded the size and the depth.
TolerantJson ReadTolerantJson(std::string_view json);

}  // namespace token_refresh
