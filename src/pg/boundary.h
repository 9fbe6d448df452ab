// The wall between C++ and PostgreSQL. PostgreSQL reports errors by longjmp, which
// skips destructors; C++ by exceptions, which must not cross C frames. So:
//
//   RunCpp(f)         from PostgreSQL code: runs C++, turns whatever goes wrong into an
//                     ereport(ERROR), raised when every C++ object of f is gone.
//   RunPostgres(f)    from C++ code of the workers: runs f, which may raise, in a transaction
//                     of its own, and returns the error as a value.
//
// f of RunPostgres must not own anything with a destructor while it may raise: it
// fills memory that its caller owns, or that is palloc'd. f of RunCpp must not call
// PostgreSQL functions that may raise.
#pragma once

#include <exception>
#include <optional>
#include <string>
#include <new>
#include <string_view>
#include <type_traits>
#include <utility>

#include "core/result.h"
#include "pg/postgres_api.h"

namespace token_refresh {

// An error at the moment between the two worlds: plain memory, nothing to destroy.
struct PlainError {
  int sqlstate;
  char message[512];
  char hint[2048];  // may list all options of a provider
};

void FillPlainError(PlainError& plain, const Error& error) noexcept;
void FillPlainError(PlainError& plain, ErrorCode code, const char* message) noexcept;
[[noreturn]] void RaisePlainError(const PlainError& plain);

template <class F>
bool CallCpp(PlainError& plain, F&& f) noexcept {
  try {
    Status status = std::forward<F>(f)();
    if (status.ok()) return true;
    FillPlainError(plain, status.error());
  } catch (const std::bad_alloc&) {
    FillPlainError(plain, ErrorCode::kInternal, "out of memory");
  } catch (const std::exception&) {
    // what() is left out: it may quote a secret.
    FillPlainError(plain, ErrorCode::kInternal, "unexpected C++ exception in token_refresh");
  } catch (...) {
    FillPlainError(plain, ErrorCode::kInternal, "unknown C++ exception in token_refresh");
  }
  return false;
}

// f returns Status.
template <class F>
void RunCpp(F&& f) {
  PlainError plain;
  if (!CallCpp(plain, std::forward<F>(f))) RaisePlainError(plain);
}

// What PostgreSQL reported, as a value. message may quote data of the row that failed:
// scrub it before it is shown.
struct PostgresError {
  int sqlstate = 0;
  std::string message;
  bool names_objects_only = false;  // message is PostgreSQL's own, of a kind that quotes no data
};

// A palloc'd copy, for C++ code inside RunCpp: throws when there is no memory, raises nothing.
char* CopyOut(std::string_view text);

// Writes to the server log from C++ code: whatever goes wrong with that is swallowed. level is below
// ERROR. hint may be null. The text must hold no secret.
void ReportToLog(int level, const char* message, const char* hint = nullptr) noexcept;

// The transaction part of RunPostgres, in plain functions.
void BeginWorkerTransaction(const char* activity);
void CommitWorkerTransaction();
// Copies the error away, aborts, and leaves the process fit for the next transaction.
// The message is malloc'ed text owned by the caller.
void AbortWorkerTransaction(int* sqlstate, char** message, bool* names_objects_only);
void FreeErrorMessage(char* message);

// Runs f between StartTransactionCommand and CommitTransactionCommand, connected to SPI
// and with an active snapshot. activity is shown in pg_stat_activity.
template <class F>
std::optional<PostgresError> RunPostgres(const char* activity, F&& f) {
  volatile bool failed = false;
  int sqlstate = 0;
  char* message = nullptr;
  bool names_objects_only = false;
  PG_TRY();
  {
    BeginWorkerTransaction(activity);
    f();
    CommitWorkerTransaction();
  }
  PG_CATCH();
  {
    AbortWorkerTransaction(&sqlstate, &message, &names_objects_only);
    failed = true;
  }
  PG_END_TRY();
  if (!failed) return std::nullopt;
  PostgresError error;
  error.sqlstate = sqlstate;
  error.names_objects_only = names_objects_only;
  if (message != nullptr) error.message = message;
  FreeErrorMessage(message);
  return error;
}

}  // namespace token_refresh
