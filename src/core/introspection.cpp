#include "core/introspection.h"

#include <algorithm>
#include <utility>

#include "core/answer_body.h"
#include "core/answer_failure.h"
#include "core/client_authentication.h"
#include "core/provider_answer.h"
#include "core/request_values.h"
#include "core/token_fields.h"
#include "core/url_template.h"

namespace token_refresh {
namespace {

constexpr std::string_view kComplaint = "not an answer that an introspection endpoint gives";

// It may be that only this endpoint is out of order, so nothing here is the provider's word on a grant or a client.
FailedAnswer Unanswered(const Provider& provider, const HttpResponse& response,
                        const std::vector<std::string_view>& sent, Micros now) {
  FailedAnswer answer;
  std::string message = "introspection: " + DescribeFailure(provider, response, kComplaint, sent, now);
  message.resize(std::min(message.size(), kMaxFailureMessage));
  answer.failure = {FailureClass::kTransient, std::move(message), std::nullopt};
  if (response.failure != TransportFailure::kNone) return answer;
  answer.failure.retry_after_us = ParseRetryAfter(response.retry_after, now);
  constexpr int kTooManyRequests = 429;
  if (response.status == kTooManyRequests) answer.failure.failure = FailureClass::kRateLimited;
  // RFC 7662 section 2.3 wants 401; some servers say 403. To ask once more, as the same client, costs nothing.
  constexpr int kUnauthorized = 401, kForbidden = 403;
  answer.client_refused = response.status == kUnauthorized || response.status == kForbidden ||
                          RefusesClient(ReadAnswerBody(response.body.view()));
  return answer;
}

}  // namespace

Result<HttpRequest> BuildIntrospectionRequest(const Provider& provider, const RefreshInput& input,
                                              std::string_view access_token, const HttpDefaults& defaults) {
  const ProviderOptions& options = provider.options;
  if (provider.client_id.empty())
    return Error{ErrorCode::kInvalidArgument, "neither the provider nor the credential has a client_id", ""};
  const RequestValues values(provider, input.subject, input.captured, input.now);
  const FindValue find = values.Finder();
  Result<std::string> url = ExpandUrl(options.introspection_endpoint, find, options.request.allowed_hosts);
  if (!url) return url.error();
  const Result<std::string> token_endpoint = ExpandUrl(options.token_endpoint, find, options.request.allowed_hosts);
  if (!token_endpoint) return token_endpoint.error();
  HttpRequest request = NewProviderRequest(provider, *std::move(url), defaults);
  FormParams params;
  params.Add("token", access_token);
  params.Add("token_type_hint", "access_token");
  const ClientProof proof{*token_endpoint, find, input.now, input.previous_secret};
  if (Status status = AddClientAuthentication(provider, proof, request, params); !status) return status.error();
  params.Rename(options.request.param_names);
  PostForm(request, params);
  if (Status status = AddOwnHeaders(options, find, request); !status) return status.error();
  return request;
}

std::variant<Introspection, FailedAnswer> ReadIntrospection(const Provider& provider, const HttpResponse& response,
                                                            const std::vector<std::string_view>& sent, Micros now) {
  if (!IsSuccess(response)) return Unanswered(provider, response, sent, now);
  const AnswerBody body = ReadAnswerBody(response.body.view());
  const SecretJson* active = body.kind == BodyKind::kObject ? FindPresent(body.fields, "active") : nullptr;
  if (active == nullptr || !active->is_boolean()) return Unanswered(provider, response, sent, now);
  Introspection found;
  found.active = *active->get_ptr<const bool*>();
  const SecretJson* exp = FindPresent(body.fields, "exp");
  const std::optional<Micros> expires_at = exp == nullptr ? std::nullopt : ReadMoment(*exp);
  if (!expires_at.has_value()) return found;
  found.active = found.active && *expires_at > now;
  if (found.active) found.expires_in = std::min(*expires_at - now, kMaxLifetime);
  return found;
}

}  // namespace token_refresh
