// Access to a token table: always in the name of the table's owner, in a restricted security
// context, with fixed settings and a time limit, since triggers, filters, policies and cipher
// functions of the owner run there. They gain nothing beyond the owner's rights, and what they
// do to the session's settings is undone.
//
// Plain data: if an error is raised in between, the abort of the (sub)transaction restores the
// user and disarms the time limit.
#pragma once

#include "pg/attempt.h"
#include "pg/postgres_api.h"
#include "pg/token_tables.h"

namespace token_refresh {

// For all that one scope executes. From then on every check for interrupts raises, so that code which
// catches the cancellation is cancelled again until nothing of it is left on the stack.
constexpr int kTableTimeoutMs = 5000;

// Called once by the refresher, which must not be held up. A session has its own statement_timeout.
void LimitTableScopes();

struct TableScope {
  Oid saved_user;
  int saved_security_context;
  int guc_nest_level;
};

// Caller is connected to SPI. Locks the table, see LockTokenTable. writes: deferred triggers run at the end of each statement, as the owner, instead of at
// COMMIT; also those of other tables, which the owner's triggers may write to.
void EnterTableScope(const TokenTable& table, bool writes, TableScope* scope);
void LeaveTableScope(const TableScope& scope);

// The settings of a scope, for the rest of an OwnerScope: texts of keys must not depend on the session's.
void FixKeyText();
// The same for what the owner's SQL means, and for what becomes of the tokens in the parameters.
void FixSqlMeaning();

using TableError = CaughtError;

// What a status says of a row that cannot be read; palloc'd. What the owner's own code says may quote a token.
char* DescribeUnreadable(const TableError& error);

// Runs f in a scope and a subtransaction of its own. False, with the error, when it raised;
// the transaction goes on. Termination is not caught.
template <class F>
bool TryOnTable(const TokenTable& table, TableError* error, F&& f);

// In a session a cancellation that TryOnTable has caught must still end the statement.
void RaiseIfCanceled(const TableError& error);

// The parts of TryOnTable.
struct TableAttempt {
  OpenAttempt subtransaction;
  ErrorContextCallback* error_context;
  TableScope scope;
};
void BeginTableAttempt(TableAttempt* attempt);
void EndTableAttempt(const TableAttempt& attempt);
void AbortTableAttempt(const TableAttempt& attempt, TableError* error);

template <class F>
bool TryOnTable(const TokenTable& table, TableError* error, F&& f) {
  TableAttempt attempt;
  volatile bool failed = false;
  BeginTableAttempt(&attempt);
  PG_TRY();
  {
    // Here, as it may raise: the table may be locked.
    EnterTableScope(table, false, &attempt.scope);
    f();
    EndTableAttempt(attempt);
  }
  PG_CATCH();
  {
    AbortTableAttempt(attempt, error);
    failed = true;
  }
  PG_END_TRY();
  // PG_END_TRY takes back what was there within the scope.
  error_context_stack = attempt.error_context;
  return !failed;
}

}  // namespace token_refresh
