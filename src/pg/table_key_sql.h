// SQL on the key of a token table, and the text that identifies a row: the key column's own text, or a JSON
// array of the texts of all of them. Results are palloc'd.
#pragma once

#include "pg/token_tables.h"

namespace token_refresh {

// The value as text; as RowKey and SPI_getvalue have it.
const char* AsText(const char* reference, Oid type);

// The row key of a row.
const char* KeyText(const TokenTable& table);

// A condition: the row has the key that expression, a text, holds. In a form that the index on the key serves.
const char* KeyMatch(const TokenTable& table, const char* expression);
// The same without a cast that somebody else may have made; the index may not serve.
const char* KeyMatchForReader(const TokenTable& table, const char* expression);

// A condition: the row is beyond the key that expression holds, in the order of the key; the index serves.
const char* KeyBeyond(const TokenTable& table, const char* expression);
const char* KeyOrder(const TokenTable& table);

// (key text) -> the key as its row has it, whether the parts that a setting may change are as the row has them
char* CanonicalKeySql(const TokenTable& table);

// What an index of the schedule can hold in any case; a row with a longer key is left alone.
constexpr size_t kLongestRowKey = 2000;
bool IsUsableKey(const char* row_key);

// The row key of the row that C++ has at hand. Null: a column of it is.
char* RowKey(const TokenTable& table, HeapTuple tuple, TupleDesc desc);

}  // namespace token_refresh
