#include "core/provider_answer.h"

#include "core/answer_body.h"
#include "core/answer_failure.h"
#include "core/failure.h"

namespace token_refresh {
namespace {

constexpr int kTooManyRequests = 429;

}  // namespace

bool IsSuccess(const HttpResponse& response) {
  return response.failure == TransportFailure::kNone && response.status / 100 == 2;
}

bool IsUnavailable(const HttpResponse& response) {
  return response.failure != TransportFailure::kNone || response.status / 100 == 5 ||
         response.status == kTooManyRequests;
}

std::string DescribeFailure(const Provider& provider, const HttpResponse& response, std::string_view complaint,
                            const std::vector<std::string_view>& sent, Micros now) {
  if (response.failure != TransportFailure::kNone) {
    return ScrubText(response.failure_message.empty() ? "no answer" : response.failure_message, sent);
  }
  if (response.status / 100 == 3) return "HTTP " + std::to_string(response.status) + ": redirect refused";
  const AnswerBody body = ReadAnswerBody(response.body.view());
  return ReadFailure(provider, response, body, complaint, sent, now).message;
}

}  // namespace token_refresh
