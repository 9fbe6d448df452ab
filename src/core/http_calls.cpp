#include "core/http_calls.h"

#include <algorithm>

namespace token_refresh {

HttpCalls::HttpCalls(HttpTransport& transport, size_t max_under_way)
    : transport_(transport), max_under_way_(std::max<size_t>(max_under_way, 1)) {}

void HttpCalls::Call(HttpRequest request, Continuation continuation) {
  queue_.emplace_back(std::move(request), std::move(continuation));
  StartSome();
}

void HttpCalls::Turn() {
  for (const auto& [response, continuation] : std::exchange(refused_, {})) continuation(response);
  for (const HttpCompletion& completion : transport_.Collect()) {
    const auto found = under_way_.find(completion.id);
    if (found == under_way_.end()) continue;
    const Continuation continuation = std::move(found->second);
    under_way_.erase(found);
    continuation(completion.response);
  }
  StartSome();
}

void HttpCalls::RefuseQueued(const std::string& message) {
  for (auto& [request, continuation] : std::exchange(queue_, {})) {
    HttpResponse response;
    response.failure = TransportFailure::kNotSent;
    response.failure_message = message;
    refused_.emplace_back(std::move(response), std::move(continuation));
  }
}

void HttpCalls::StartSome() {
  while (!queue_.empty() && under_way_.size() < max_under_way_) {
    auto [request, continuation] = std::move(queue_.front());
    queue_.pop_front();
    const uint64_t id = next_id_++;
    under_way_.emplace(id, std::move(continuation));
    transport_.Submit(id, std::move(request));
  }
}

}  // namespace token_refresh
