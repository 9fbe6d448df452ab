// bytea and text as C++ sees them: both are bytes behind a header. For all of src/pg.
#pragma once

#include <cstddef>
#include <string_view>

#include "pg/postgres_api.h"

namespace token_refresh {

// value is not toasted (PG_GETARG_TEXT_PP, a copy); it lives as long as value. null: nothing.
inline std::string_view View(const struct varlena* value) {
  return value == nullptr ? std::string_view() : std::string_view(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
}

// Of that size, for the caller to fill at VARDATA(). PostgreSQL code: may raise.
inline bytea* AllocateBytes(size_t size) {
  bytea* bytes = static_cast<bytea*>(palloc(VARHDRSZ + size));
  SET_VARSIZE(bytes, VARHDRSZ + size);
  return bytes;
}

}  // namespace token_refresh
