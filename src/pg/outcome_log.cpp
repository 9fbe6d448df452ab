#include "pg/outcome_log.h"

#include "core/encoding.h"
#include "pg/boundary.h"

namespace token_refresh {

namespace {

std::string Prefix(const Claim& claim, const std::string& provider_name) {
  Result<Sha256Digest> digest = Sha256(claim.subject);
  std::string subject = digest.ok() ? HexEncode(BytesOf(*digest)).substr(0, 8) : "?";
  return "[" + provider_name + "][" + subject + "] ";
}

}  // namespace

void LogOutcome(const Outcome& outcome, const std::string& provider_name) {
  if (!outcome.failure) return;
  const char* what = nullptr;
  switch (outcome.failure->failure) {
    case FailureClass::kReauth:
      what = "the grant is dead, the user must sign in again: ";
      break;
    case FailureClass::kLostResponse:
      what = "the grant is dead after an answer was lost on the way, the user must sign in again: ";
      break;
    case FailureClass::kClientConfig:
      what = "the provider rejects our client or request: ";
      break;
    default:
      return;
  }
  ReportToLog(LOG, (Prefix(outcome.claim, provider_name) + what + outcome.failure->message).c_str());
}

void LogUnopened(const Claim& claim, const std::string& provider_name, const TokenTable* table, const std::string& error) {
  std::string where = "the refresh token";
  if (table != nullptr && table->quoted_name != nullptr)
    where += std::string(" in column ") + table->columns[kColumnRefreshToken].quoted + " of table " + table->quoted_name;
  ReportToLog(WARNING, (Prefix(claim, provider_name) + where + " cannot be opened: " + error).c_str());
}

void LogRejected(const Outcome& outcome, const std::string& provider_name, const std::string& reason) {
  ReportToLog(LOG, (Prefix(outcome.claim, provider_name) + "the answer could not be stored: " + reason).c_str());
}

}  // namespace token_refresh
