// Arguments of SQL functions that are not strict: their names belong into the error. PostgreSQL code: raises
// null_value_not_allowed.
#pragma once

#include "pg/postgres_api.h"

namespace token_refresh {

inline void RequireArgument(FunctionCallInfo fcinfo, int argument, const char* name) {
  if (PG_ARGISNULL(argument))
    ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("argument \"%s\" must not be null", name)));
}

inline text* RequireText(FunctionCallInfo fcinfo, int argument, const char* name) {
  RequireArgument(fcinfo, argument, name);
  return PG_GETARG_TEXT_PP(argument);
}

}  // namespace token_refresh
