#include "core/revocation.h"

#include "core/answer_body.h"
#include "core/client_authentication.h"
#include "core/provider_answer.h"
#include "core/token_response.h"

namespace token_refresh {
namespace {

constexpr std::string_view kComplaint = "not an answer that a revocation endpoint gives";

// RFC 7009 section 2.2 says 200 for a token that is not known; some say so in the words of RFC 6750.
bool IsUnknownToken(const HttpResponse& response) {
  const AnswerBody body = ReadAnswerBody(response.body.view());
  const SecretJson* error = FindMember(body.fields, "error");
  return error != nullptr && TextOf(*error) == "invalid_token";
}

}  // namespace

HttpRequest BuildRevocationRequest(const Provider& provider, const Secret& token, std::string_view hint,
                                   const HttpDefaults& defaults) {
  HttpRequest request = NewProviderRequest(provider, provider.options.revocation_endpoint, defaults);
  FormParams params;
  params.Add("token", token.view());
  if (!hint.empty()) params.Add("token_type_hint", hint);
  AuthenticateClient(provider, request, params);
  PostForm(request, params);
  for (const auto& [name, value] : provider.options.request_headers) SetHeader(request, name, value);
  return request;
}

RevocationVerdict ReadRevocationAnswer(const Provider& provider, const HttpResponse& response,
                                       const std::vector<std::string_view>& sent, Micros now) {
  if (IsSuccess(response)) return {RevocationOutcome::kDone, {}, {}};
  RevocationVerdict verdict{RevocationOutcome::kRetry, {}, DescribeFailure(provider, response, kComplaint, sent, now)};
  if (IsUnavailable(response)) {
    if (response.failure == TransportFailure::kNone) verdict.retry_after = ParseRetryAfter(response.retry_after, now);
    return verdict;
  }
  if (response.status == 400 && IsUnknownToken(response)) return {RevocationOutcome::kDone, {}, {}};
  if (response.status / 100 == 4) verdict.outcome = RevocationOutcome::kRefused;
  return verdict;
}

}  // namespace token_refresh
