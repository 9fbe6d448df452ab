// How work of the refresher that PostgreSQL has not let through is put into the server log.
#pragma once

#include <string>

#include "pg/boundary.h"

namespace token_refresh {

// It will be tried again, or given up: what was being done, the SQLSTATE, and PostgreSQL's words if they quote no data.
inline void LogFailure(const char* doing, const PostgresError& error) {
  std::string message = std::string(doing) + " failed with SQLSTATE " + unpack_sql_state(error.sqlstate);
  if (error.names_objects_only) message.append(": ").append(error.message);
  ReportToLog(LOG, message.c_str());
}

}  // namespace token_refresh
