// Runs what may raise in a subtransaction of its own, so that the transaction goes on. Called connected to SPI. Plain
// data: termination is not caught.
#pragma once

#include "pg/postgres_api.h"

namespace token_refresh {

// An error that stayed in a subtransaction; palloc'd.
struct CaughtError {
  int sqlstate;
  char* message;
};

// False, with the error, when f raised. What f makes in the current memory context outlives it.
template <class F>
bool Attempt(CaughtError* error, F&& f);

// The parts of it.
struct OpenAttempt {
  MemoryContext context;
  ResourceOwner owner;
};
void BeginAttempt(OpenAttempt* attempt);
void EndAttempt(const OpenAttempt& attempt);
void AbortAttempt(const OpenAttempt& attempt, CaughtError* error);

template <class F>
bool Attempt(CaughtError* error, F&& f) {
  OpenAttempt attempt;
  volatile bool failed = false;
  BeginAttempt(&attempt);
  PG_TRY();
  {
    f();
    EndAttempt(attempt);
  }
  PG_CATCH();
  {
    AbortAttempt(attempt, error);
    failed = true;
  }
  PG_END_TRY();
  return !failed;
}

}  // namespace token_refresh
