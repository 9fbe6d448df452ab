// The options of attach_table, as plain data for PostgreSQL's side, and the problems that are
// found with them, collected so that the owner hears of everything at once. May raise.
#pragma once

#include "pg/postgres_api.h"

extern "C" {
#include "lib/stringinfo.h"
}

namespace token_refresh {

struct Problems {
  int count;
  StringInfoData lines;  // one a problem, for a DETAIL
};

void InitProblems(Problems* problems);
void AddProblem(Problems* problems, const char* format, ...) pg_attribute_printf(2, 3);
// Raises invalid_parameter_value with all of them; returns when there is none.
void RaiseProblems(const Problems& problems, Oid relation);

// One of the cipher's functions, as the catalog names it.
struct FunctionName {
  const char* schema;  // null: not given
  const char* name;
};

// Null: not given.
struct AttachPlan {
  const char* provider;
  const char* label;
  const char* filter;
  const char* cipher;  // as in token_table.cipher
  const char* cipher_key;
  FunctionName decrypt;
  FunctionName encrypt;
  const char* time_zone;
  Jsonb* columns;  // from word to name
  Jsonb* status_values;
  Jsonb* result_values;
  bool trigger;
  Interval* poll_interval;
  Interval* refresh_margin;
  ArrayType* key_columns;
};

// Everything but key_columns.
void ReadAttachOptions(Jsonb* options, AttachPlan* plan, Problems* problems);

// The name that plan gives to the column of this word; null: none.
const char* ColumnOf(const AttachPlan& plan, const char* word);

}  // namespace token_refresh
