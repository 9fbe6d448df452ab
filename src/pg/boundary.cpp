#include "pg/boundary.h"

#include <cstdlib>
#include <cstring>

namespace token_refresh {

namespace {

int SqlState(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return ERRCODE_INVALID_PARAMETER_VALUE;
    case ErrorCode::kKeyMissing:
      return ERRCODE_CONFIG_FILE_ERROR;
    case ErrorCode::kNotAuthentic:
      return ERRCODE_DATA_CORRUPTED;
    case ErrorCode::kUnavailable:
      return ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
    case ErrorCode::kInternal:
      break;
  }
  return ERRCODE_INTERNAL_ERROR;
}

void CopyText(char* to, size_t size, const char* from) {
  size_t length = strnlen(from, size - 1);
  memcpy(to, from, length);
  to[length] = '\0';
}

// What a procedural language raises has a domain of its own, also where code in it chooses the SQLSTATE.
bool NamesObjectsOnly(const ErrorData& error) {
  if (error.domain == nullptr || strncmp(error.domain, "postgres-", strlen("postgres-")) != 0) return false;
  switch (ERRCODE_TO_CATEGORY(error.sqlerrcode)) {
    case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION:
    case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
    case ERRCODE_INSUFFICIENT_RESOURCES:
      return true;
    default:
      return error.sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE ||
             error.sqlerrcode == ERRCODE_STRING_DATA_RIGHT_TRUNCATION;
  }
}

}  // namespace

void FillPlainError(PlainError& plain, const Error& error) noexcept {
  plain.sqlstate = SqlState(error.code);
  CopyText(plain.message, sizeof(plain.message), error.message.c_str());
  CopyText(plain.hint, sizeof(plain.hint), error.hint.c_str());
}

void FillPlainError(PlainError& plain, ErrorCode code, const char* message) noexcept {
  plain.sqlstate = SqlState(code);
  CopyText(plain.message, sizeof(plain.message), message);
  plain.hint[0] = '\0';
}

void RaisePlainError(const PlainError& plain) {
  // What an interrupt has cut short says less than the interrupt itself.
  CHECK_FOR_INTERRUPTS();
  ereport(ERROR,
          (errcode(plain.sqlstate), errmsg("%s", plain.message), plain.hint[0] != '\0' ? errhint("%s", plain.hint) : 0));
  pg_unreachable();
}

char* CopyOut(std::string_view text) {
  char* copy = static_cast<char*>(palloc_extended(text.size() + 1, MCXT_ALLOC_NO_OOM));
  if (copy == nullptr) throw std::bad_alloc();
  memcpy(copy, text.data(), text.size());
  copy[text.size()] = '\0';
  return copy;
}

void ReportToLog(int level, const char* message, const char* hint) noexcept {
  PG_TRY();
  { ereport(level, (errmsg("token_refresh: %s", message), hint != nullptr ? errhint("%s", hint) : 0)); }
  PG_CATCH();
  { FlushErrorState(); }
  PG_END_TRY();
}

void BeginWorkerTransaction(const char* activity) {
  SetCurrentStatementStartTimestamp();
  StartTransactionCommand();
  SPI_connect();
  PushActiveSnapshot(GetTransactionSnapshot());
  pgstat_report_activity(STATE_RUNNING, activity);
}

void CommitWorkerTransaction() {
  SPI_finish();
  PopActiveSnapshot();
  CommitTransactionCommand();
  // Autovacuum must hear of these writes; this is rate-limited by itself.
  pgstat_report_stat(false);
  pgstat_report_activity(STATE_IDLE, nullptr);
}

void AbortWorkerTransaction(int* sqlstate, char** message, bool* names_objects_only) {
  // The report goes to the caller, not to the log: it may quote the row that failed.
  MemoryContextSwitchTo(TopMemoryContext);
  ErrorData* error = CopyErrorData();
  FlushErrorState();
  *sqlstate = error->sqlerrcode;
  *names_objects_only = NamesObjectsOnly(*error);
  *message = error->message != nullptr ? strdup(error->message) : nullptr;
  FreeErrorData(error);
  HOLD_INTERRUPTS();
  // Also of a subtransaction that f has left open.
  AbortOutOfAnyTransaction();
  pgstat_report_activity(STATE_IDLE, nullptr);
  RESUME_INTERRUPTS();
}

void FreeErrorMessage(char* message) { free(message); }

}  // namespace token_refresh
