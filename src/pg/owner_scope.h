// Runs the extension's own SQL with the extension owner's rights and a safe
// search_path, inside a function that a session called with its own rights. Plain data:
// if an error is raised in between, PostgreSQL's abort restores everything.
#pragma once

#include "pg/postgres_api.h"

namespace token_refresh {

struct OwnerScope {
  Oid saved_user;
  int saved_security_context;
  int guc_nest_level;
};

// Also connects to SPI.
void EnterOwnerScope(OwnerScope* scope);
void LeaveOwnerScope(const OwnerScope* scope);

}  // namespace token_refresh
