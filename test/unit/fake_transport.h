// A transport of the refresh engine that answers when a test says so.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "core/http.h"
#include "http_messages.h"

namespace token_refresh {

class FakeTransport : public HttpTransport {
 public:
  struct Pending {
    uint64_t id;
    HttpRequest request;
  };

  void Submit(uint64_t id, HttpRequest request) override { pending.push_back({id, std::move(request)}); }
  std::vector<HttpCompletion> Collect() override { return std::exchange(completed_, {}); }
  size_t in_flight() const override { return pending.size() + completed_.size(); }

  // Answers the request that presented refresh_token; false when there is none.
  bool Answer(std::string_view refresh_token, HttpResponse response) {
    const auto found = std::find_if(pending.begin(), pending.end(), [&](const Pending& p) {
      return FormField(p.request, "refresh_token") == refresh_token;
    });
    if (found == pending.end()) return false;
    completed_.push_back({found->id, std::move(response)});
    pending.erase(found);
    return true;
  }

  void AnswerAllPending(int status, std::string_view body) {
    for (const Pending& request : std::exchange(pending, {}))
      completed_.push_back({request.id, MakeResponse(status, body)});
  }

  void FailAllPending(TransportFailure failure) {
    for (const Pending& request : std::exchange(pending, {}))
      completed_.push_back({request.id, MakeTransportFailure(failure)});
  }

  std::vector<Pending> pending;

 private:
  std::vector<HttpCompletion> completed_;
};

}  // namespace token_refresh
