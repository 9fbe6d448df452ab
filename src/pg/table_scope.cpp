#include "pg/table_scope.h"

#include "pg/table_suspension.h"

extern "C" {
#include "utils/fmgrprotos.h"
#include "utils/timeout.h"
}

namespace token_refresh {

namespace {

struct Setting {
  const char *name, *value;
};

// What key texts and expressions of the owner must not depend on.
constexpr Setting kSettings[] = {{"search_path", "pg_catalog, pg_temp"}, {"DateStyle", "ISO, MDY"},
                                 {"IntervalStyle", "postgres"},          {"TimeZone", "UTC"},
                                 {"bytea_output", "hex"},                {"extra_float_digits", "1"},
                                 {"xmlbinary", "base64"},                {"lc_monetary", "C"}};

// What the SQL of the owner means, as it meant that when it was checked. With a plan of its own for each execution
// the tokens in the parameters would be in the plan, which auto_explain may log.
constexpr Setting kSqlSettings[] = {{"standard_conforming_strings", "on"},
                                    {"transform_null_equals", "off"},
                                    {"quote_all_identifiers", "off"},
                                    {"plan_cache_mode", "force_generic_plan"}};
// Where it has been loaded it may log the parameters themselves (from PostgreSQL 16 on).
constexpr Setting kLogged = {"auto_explain.log_parameter_max_length", "0"};

bool limited = false;
bool armed = false;
int32_t armed_for = 0;  // the token table
TimestampTz armed_at = 0;
TimestampTz deadline = 0;
ErrorContextCallback cancel_again;

// Called for every error that is raised in the scope. Once time is up the next check for interrupts
// raises as well, wherever the error was caught.
void CancelAgain(void*) {
  if (!armed || GetCurrentTimestamp() < deadline) return;
  QueryCancelPending = true;
  InterruptPending = true;
}

void Set(const Setting& setting, GucContext context) {
  set_config_option(setting.name, setting.value, context, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

void Arm(int32_t token_table) {
  if (!limited) return;
  // The callback must not be its own predecessor.
  if (armed) elog(ERROR, "token_refresh: a scope on a token table within another");
  armed = true;
  armed_for = token_table;
  armed_at = GetCurrentTimestamp();
  deadline = TimestampTzPlusMilliseconds(armed_at, kTableTimeoutMs);
  enable_timeout_at(STATEMENT_TIMEOUT, deadline);
  cancel_again.callback = CancelAgain;
  cancel_again.arg = nullptr;
  cancel_again.previous = error_context_stack;
  error_context_stack = &cancel_again;
}

void Disarm() {
  if (!armed) return;
  disable_timeout(STATEMENT_TIMEOUT, false);
  armed = false;
  const TimestampTz now = GetCurrentTimestamp();
  NoteTableTime(armed_for, FromTimestamp(now), now - armed_at);
  QueryCancelPending = false;
  // What the owner's code has locked for the session would stay locked as long as the refresher lives.
  DirectFunctionCall1(pg_advisory_unlock_all, 0);
}

// An error that nobody has caught on its way must not leave the limit behind, for others to be cancelled by.
void DisarmAtEnd(XactEvent, void*) { Disarm(); }

}  // namespace

void LimitTableScopes() {
  limited = true;
  RegisterXactCallback(DisarmAtEnd, nullptr);
}

void FixKeyText() {
  for (const Setting& setting : kSettings) Set(setting, PGC_USERSET);
}

void FixSqlMeaning() {
  for (const Setting& setting : kSqlSettings) Set(setting, PGC_USERSET);
}

void EnterTableScope(const TokenTable& table, bool writes, TableScope* scope) {
  if (!table.built_in) LockTokenTable(table);
  scope->guc_nest_level = NewGUCNestLevel();
  FixKeyText();
  FixSqlMeaning();
  if (GetConfigOption(kLogged.name, true, false) != nullptr) Set(kLogged, PGC_SUSET);
  GetUserIdAndSecContext(&scope->saved_user, &scope->saved_security_context);
  SetUserIdAndSecContext(table.owner, scope->saved_security_context | SECURITY_LOCAL_USERID_CHANGE |
                                          SECURITY_RESTRICTED_OPERATION);
  Arm(table.id);
  if (writes && SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) != SPI_OK_UTILITY)
    elog(ERROR, "token_refresh: SET CONSTRAINTS failed");
}

void LeaveTableScope(const TableScope& scope) {
  if (armed) error_context_stack = cancel_again.previous;
  Disarm();
  SetUserIdAndSecContext(scope.saved_user, scope.saved_security_context);
  AtEOXact_GUC(false, scope.guc_nest_level);
}

void BeginTableAttempt(TableAttempt* attempt) {
  attempt->error_context = error_context_stack;
  BeginAttempt(&attempt->subtransaction);
}

void EndTableAttempt(const TableAttempt& attempt) {
  LeaveTableScope(attempt.scope);
  EndAttempt(attempt.subtransaction);
}

void AbortTableAttempt(const TableAttempt& attempt, TableError* error) {
  AbortAttempt(attempt.subtransaction, error);
  Disarm();
}

void RaiseIfCanceled(const TableError& error) {
  if (!limited && error.sqlstate == ERRCODE_QUERY_CANCELED)
    ereport(ERROR, (errcode(error.sqlstate), errmsg("%s", error.message)));
}

char* DescribeUnreadable(const TableError& error) {
  return psprintf("reading the row fails with SQLSTATE %s", unpack_sql_state(error.sqlstate));
}

}  // namespace token_refresh
