// Makes the description of a token table from its row of token_table and the catalogs. For token_tables.cpp, which
// keeps it. May raise; results are palloc'd in the current context.
#pragma once

#include "pg/token_tables.h"

namespace token_refresh {

// The columns of the row, in the order of the fields of DescribeTable.
constexpr const char* kDescriptionColumns =
    "relation, key_columns, columns, provider, label, filter, cipher, cipher_key, decrypt_function, encrypt_function,"
    " status_values, result_values, time_zone, has_trigger, poll_interval, refresh_margin, attached_at, owner,"
    " alias::text";

// Fills all of table but context, id, version, watched, statements and next. Locks the relation until the end of the
// transaction.
void DescribeTable(HeapTuple tuple, TupleDesc desc, TokenTable* table);

// The parts of it.

// What is wrong is kept, not raised: an application's own INSERT must not fail for it.
inline void Trouble(TokenTable* table, const char* trouble) {
  if (table->trouble == nullptr) table->trouble = trouble;
}

struct Attribute {
  Oid type;
  int32 modifier;
  const char *name, *sized_name;  // of the type, qualified
};

// False, with the trouble noted, when there is no such column.
bool FindAttribute(TokenTable* table, const char* name, Attribute* attribute);

void DescribeKey(ArrayType* names, TokenTable* table);
// That it still is one. The relation is locked.
void CheckKey(TokenTable* table);

}  // namespace token_refresh
