#include "pg/secondary_tokens.h"

#include "pg/boundary.h"
#include "pg/catalog.h"
#include "pg/outcome_log.h"
#include "pg/park_secondary.h"
#include "pg/wakeup.h"

namespace token_refresh {

namespace {

// For how long rows of one transaction are tried: one that is locked costs a tenth of a second.
constexpr Micros kStoringBudget = kSecond;
// For how long those that are parked are tried before others have their turn.
constexpr Micros kRetryingBudget = kSecond / 2;
constexpr const char* kLate = "saving took too long";

Statement write_audit = {
    "INSERT INTO token_refresh.audit_event (event, provider, token_table, subject, label, message, actor)"
    " VALUES ($1, $2, 1, $3, $4, $5, 'refresher')",
    5,
    {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID},
    nullptr};

// kUnwanted: what is there is newer, or nothing is there.
enum class Stored { kYes, kUnwanted, kNo };

// With kNo: *reason, and what is known of the row. Whatever the row's own triggers have to say they say here.
Stored TryStore(const GivenSecondary& given, SecondaryRow* row, char** reason) {
  CaughtError error = {};
  volatile bool written = false;
  if (given.blind || MustWait(given)) {
    *reason = pstrdup(given.blind ? kLate : "an earlier refresh token is yet to be stored");
    return Stored::kNo;
  }
  bool done = Attempt(&error, [&] { FindSecondaryRow(given, row); });
  if (!done) *row = {.unreadable = true};
  if (done && (row->newer_parked || (given.existing_only && !row->found))) return Stored::kUnwanted;
  if (done && given.late) {
    *reason = pstrdup(kLate);
    return Stored::kNo;
  }
  done = done && Attempt(&error, [&] {
           written = WriteGiven(given);
           if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) != SPI_OK_UTILITY)
             elog(ERROR, "token_refresh: SET CONSTRAINTS failed");
         });
  if (done) return written ? Stored::kYes : Stored::kUnwanted;
  *reason = DescribeRejection(given, error);
  return Stored::kNo;
}

void Audit(const GivenSecondary& given, const char* event, const char* message) {
  Datum values[] = {CStringGetTextDatum(event), given.name.provider, given.name.subject, given.name.label,
                    message != nullptr ? CStringGetTextDatum(message) : 0};
  Execute(&write_audit, values, false, message != nullptr ? nullptr : "    n");
}

void Log(const Outcome& outcome, const std::string& label, const std::string& provider_name, const char* reason) {
  RunCpp([&] {
    LogRejected(outcome, provider_name, "tokens of label " + label + ": " + reason);
    return Ok();
  });
}

bool Opens(const GivenSecondary& given) {
  PlainError error;
  return CallCpp(error, [&] { return WithTokens(given, [](const TokenSet&, const OwnClient&) { return Ok(); }); });
}

void Retry(const GivenSecondary& given) {
  if (!Opens(given)) return PostponeParked({&given.parked_id, 1}, kParkedUnopened, kUnopenedPauseSeconds);
  SecondaryRow row = {};
  char* reason = nullptr;
  const Stored stored = TryStore(given, &row, &reason);
  if (stored == Stored::kNo && !ParkBesideRow(given, row, reason))
    return PostponeParked({&given.parked_id, 1}, reason, 0);
  if (stored == Stored::kYes) Audit(given, "parked_result_stored", nullptr);
  if (stored == Stored::kUnwanted) Audit(given, "superseded", nullptr);
  DeleteParkedByName(given.parked_id);
}

}  // namespace

void StoreSecondary(const SaveWork& work, const Picked& rows, bool existing_only) {
  const Micros started = FromTimestamp(GetCurrentTimestamp());
  bool unreadable = false;
  for (int i = 0; i < rows.count; i++) {
    const Outcome& outcome = work.outcomes[rows.index[i]];
    const Claim& claim = outcome.claim;
    if (claim.token_table != kBuiltInTokenTable) continue;
    for (const SecondaryTokens& secondary : outcome.tokens->secondary) {
      GivenSecondary given = {};
      given.name = {TextDatum(work.provider_names[rows.index[i]]), TextDatum(claim.subject),
                    TextDatum(secondary.label)};
      given.given_at = outcome.answered_at;
      given.asked_at = outcome.answered_at - outcome.duration;
      given.existing_only = existing_only;
      given.late = FromTimestamp(GetCurrentTimestamp()) - started > kStoringBudget;
      // A table that is locked as a whole keeps everybody waiting who looks.
      given.blind = given.late && unreadable;
      given.tokens = &secondary.tokens;
      given.client = {claim.client_id, claim.client_secret.view()};
      SecondaryRow row = {};
      char* reason = nullptr;
      CommitToDisk();
      if (TryStore(given, &row, &reason) != Stored::kNo) continue;
      unreadable = unreadable || row.unreadable;
      if (!ParkBesideRow(given, row, reason)) ParkByName(given, row, reason);
      Audit(given, "parked", reason);
      Log(outcome, secondary.label, work.provider_names[rows.index[i]], reason);
      WakeRefresherAtCommit(GetCurrentTimestamp());
    }
  }
}

void RetryParkedByName(TimestampTz now, TimestampTz started_at) {
  GivenSecondary* parked = nullptr;
  const int count = ReadParkedByName(now, started_at, &parked);
  const Micros started = FromTimestamp(GetCurrentTimestamp());
  for (int i = 0; i < count && FromTimestamp(GetCurrentTimestamp()) - started <= kRetryingBudget; i++) Retry(parked[i]);
}

}  // namespace token_refresh
