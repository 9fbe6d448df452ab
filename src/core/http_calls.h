// HTTP requests, each with what is to be done with its answer. For those who ask several things one after the
// other; one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <unordered_map>
#include <utility>

#include "core/http.h"

namespace token_refresh {

class HttpCalls {
 public:
  using Continuation = std::function<void(const HttpResponse&)>;

  // transport outlives this, and nothing else collects from it. At most max_under_way requests are with it; the
  // others wait here for their turn.
  HttpCalls(HttpTransport& transport, size_t max_under_way);
  HttpCalls(const HttpCalls&) = delete;
  HttpCalls& operator=(const HttpCalls&) = delete;

  // The continuation runs once, in a later Turn(), and may Call().
  void Call(HttpRequest request, Continuation continuation);

  // Takes what has been answered and starts what has waited. Never blocks.
  void Turn();

  // Requests that still wait for their turn will not be sent: their continuations learn so in the next Turn()
  // (kNotSent, with that message).
  void RefuseQueued(const std::string& message);

  // Calls whose continuations have not run.
  size_t in_flight() const { return under_way_.size() + queue_.size() + refused_.size(); }

 private:
  void StartSome();

  HttpTransport& transport_;
  size_t max_under_way_;
  uint64_t next_id_ = 1;
  std::unordered_map<uint64_t, Continuation> under_way_;
  std::deque<std::pair<HttpRequest, Continuation>> queue_;
  std::deque<std::pair<HttpResponse, Continuation>> refused_;
};

}  // namespace token_refresh
