#include "pg/owner_scope.h"

namespace token_refresh {

void EnterOwnerScope(OwnerScope* scope) {
  scope->guc_nest_level = NewGUCNestLevel();
  set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
  GetUserIdAndSecContext(&scope->saved_user, &scope->saved_security_context);
  SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID,
                         scope->saved_security_context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
  if (SPI_connect() != SPI_OK_CONNECT) elog(ERROR, "token_refresh: SPI_connect failed");
}

void LeaveOwnerScope(const OwnerScope* scope) {
  SPI_finish();
  SetUserIdAndSecContext(scope->saved_user, scope->saved_security_context);
  AtEOXact_GUC(false, scope->guc_nest_level);
}

}  // namespace token_refresh
