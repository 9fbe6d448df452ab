#include "pg/discovery_desk.h"

#include <utility>

#include "core/request_payload.h"
#include "pg/boundary.h"
#include "pg/failure_log.h"
#include "pg/settings.h"
#include "pg/spi_arrays.h"
#include "pg/statements.h"

namespace token_refresh {

namespace {

Statement note_answer = {
    "INSERT INTO token_refresh.discovery (id, issuer, options, message)"
    " SELECT $1, coalesce($2::pg_catalog.jsonb ->> 'issuer', ''), $2::pg_catalog.jsonb, $3",
    3,
    {INT8OID, TEXTOID, TEXTOID},
    nullptr};

// As functions_sign_in.cpp has made it.
Result<DiscoveryRequest> ReadRequest(const PendingRequest& pending) {
  Result<Secret> payload = ReadPayload(pending);
  if (!payload.ok()) return payload.error();
  const std::optional<DiscoveryPayload> given = ReadDiscoveryPayload(payload->view());
  if (!given.has_value()) return Error{ErrorCode::kInternal, "the payload of a discovery is damaged", ""};
  Result<ProviderOptions> options = ParseProviderOptions(given->options, Settings::allow_insecure_http);
  if (!options.ok()) return options.error();
  auto provider = std::make_shared<Provider>();
  provider->options = std::move(*options);
  DiscoveryRequest request;
  request.id = static_cast<uint64_t>(pending.subject.id);
  request.provider = std::move(provider);
  request.issuer = given->issuer;
  request.has_client_secret = given->has_client_secret;
  request.auth_method = given->auth_method;
  return request;
}

}  // namespace

void DiscoveryDesk::Serve() {
  for (const PendingRequest& request : std::exchange(taken_, {}))
    if (!Begin(request)) FinishRequest(database_, request.subject, DemandResult::kInternal);
  discoveries_.Turn();
  for (const DiscoveryResult& result : discoveries_.TakeFinished()) Finish(result);
}

bool DiscoveryDesk::Begin(const PendingRequest& pending) {
  Result<DiscoveryRequest> request = ReadRequest(pending);
  if (!request.ok()) {
    ReportToLog(LOG, ("a discovery cannot be read: " + request.error().message).c_str());
    return false;
  }
  discoveries_.Begin(std::move(*request));
  return true;
}

void DiscoveryDesk::Finish(const DiscoveryResult& result) {
  const RequestSubject subject = {RequestKind::kDiscover, static_cast<int64_t>(result.id)};
  auto error = RunPostgres("token_refresh: discovery", [&] {
    Datum options = result.found ? MessageDatum(result.options) : 0;
    Datum message = result.found ? 0 : MessageDatum(result.message);
    Datum values[] = {Int64GetDatum(subject.id), options, message};
    char nulls[] = {' ', result.found ? ' ' : 'n', result.found ? 'n' : ' ', '\0'};
    Execute(&note_answer, values, false, nulls);
  });
  if (error) LogFailure("noting what a discovery has found", *error);
  FinishRequest(database_, subject, error ? DemandResult::kInternal : DemandResult::kRefreshed);
}

}  // namespace token_refresh
