#include "pg/attempt.h"

namespace token_refresh {

void BeginAttempt(OpenAttempt* attempt) {
  attempt->context = CurrentMemoryContext;
  attempt->owner = CurrentResourceOwner;
  BeginInternalSubTransaction(nullptr);
  MemoryContextSwitchTo(attempt->context);
}

void EndAttempt(const OpenAttempt& attempt) {
  ReleaseCurrentSubTransaction();
  MemoryContextSwitchTo(attempt.context);
  CurrentResourceOwner = attempt.owner;
}

void AbortAttempt(const OpenAttempt& attempt, CaughtError* error) {
  MemoryContextSwitchTo(attempt.context);
  ErrorData* data = CopyErrorData();
  FlushErrorState();
  RollbackAndReleaseCurrentSubTransaction();
  MemoryContextSwitchTo(attempt.context);
  CurrentResourceOwner = attempt.owner;
  error->sqlstate = data->sqlerrcode;
  error->message = data->message != nullptr ? data->message : pstrdup("");
}

}  // namespace token_refresh
