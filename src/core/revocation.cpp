#include "core/revocation.h"

#include <algorithm>
#include <array>

#include "core/answer_body.h"
#include "core/client_authentication.h"
#include "core/provider_answer.h"
#include "core/request_values.h"
#include "core/token_response.h"

namespace token_refresh {
namespace {

constexpr std::string_view kComplaint = "not an answer that a revocation endpoint gives";

// Errors with status 400 that are about the client or the server, and may be mended.
constexpr std::array<std::string_view, 3> kPassing = {"invalid_client", "temporarily_unavailable", "server_error"};

// RFC 7009 section 2.2: 200 for a token that is not known; some say so in the words of RFC 6750. Only an error of OAuth
// is about this token for good; anything else may come of what stands before the endpoint, or of a client being
// changed.
RevocationOutcome OutcomeOf400(std::string_view error) {
  if (error.empty()) return RevocationOutcome::kRetry;
  if (error == "invalid_token") return RevocationOutcome::kDone;
  const bool passing = std::find(kPassing.begin(), kPassing.end(), error) != kPassing.end();
  return passing ? RevocationOutcome::kRetry : RevocationOutcome::kRefused;
}

}  // namespace

Result<HttpRequest> BuildRevocationRequest(const Provider& provider, const Secret& token, std::string_view hint,
                                           Micros now, const HttpDefaults& defaults, bool previous_secret) {
  const ProviderOptions& options = provider.options;
  const RequestValues values(provider, "", "", now);
  const FindValue find = values.Finder();
  HttpRequest request = NewProviderRequest(provider, options.revocation_endpoint, defaults);
  FormParams params;
  params.Add("token", token.view());
  if (!hint.empty()) params.Add("token_type_hint", hint);
  const ClientProof proof{options.token_endpoint, find, now, previous_secret};
  if (Status status = AddClientAuthentication(provider, proof, request, params); !status) return status.error();
  params.Rename(options.request.param_names);
  PostForm(request, params);
  AddKnownHeaders(options, find, request);
  return request;
}

RevocationVerdict ReadRevocationAnswer(const Provider& provider, const HttpResponse& response,
                                       const std::vector<std::string_view>& sent, Micros now) {
  if (IsSuccess(response)) return {RevocationOutcome::kDone, {}, {}, false};
  RevocationVerdict verdict;
  verdict.message = DescribeFailure(provider, response, kComplaint, sent, now);
  if (IsUnavailable(response)) {
    if (response.failure == TransportFailure::kNone) verdict.retry_after = ParseRetryAfter(response.retry_after, now);
    return verdict;
  }
  const AnswerBody body = ReadAnswerBody(response.body.view());
  const SecretJson* member = FindMember(body.fields, "error");
  const std::string_view error = member == nullptr ? std::string_view() : TextOf(*member).value_or("");
  if (response.status == 400) verdict.outcome = OutcomeOf400(error);
  verdict.other_secret = error == "invalid_client" && HasTwoSecrets(provider);
  if (verdict.outcome == RevocationOutcome::kDone) verdict.message.clear();
  return verdict;
}

}  // namespace token_refresh
