// A CurlTransport and what its tests tell a LoopbackServer to do. For the tests of CurlTransport without TLS.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/curl_transport.h"
#include "http_driver.h"
#include "loopback_server.h"

namespace token_refresh::test {

class CurlTransportTest : public testing::Test {
 protected:
  // One exchange with a server that answers so and closes.
  HttpResponse AnswerTo(std::string answer) {
    LoopbackServer server(Once(std::move(answer)));
    return Exchange(*transport_, PostTo(server.Url()));
  }

  std::unique_ptr<CurlTransport> transport_ = MakeTransport();
};

inline std::string BodyOf(const HttpResponse& response) { return std::string(response.body.view()); }

// Remembers what the server was sent.
class RequestLog {
 public:
  void Add(std::string request) {
    const std::lock_guard lock(mutex_);
    requests_.push_back(std::move(request));
  }
  std::vector<std::string> all() {
    const std::lock_guard lock(mutex_);
    return requests_;
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> requests_;
};

inline LoopbackServer::Handler LogAndAnswer(RequestLog& log, std::string answer) {
  return [&log, answer = std::move(answer)](Connection& connection) {
    while (std::optional<std::string> request = connection.ReadRequest()) {
      log.Add(*request);
      if (!connection.Send(answer)) return;
    }
  };
}

// Lets threads wait until something has happened so many times.
class Tally {
 public:
  void Add() {
    const std::lock_guard lock(mutex_);
    ++count_;
    changed_.notify_all();
  }
  bool Await(int count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] { return count_ >= count; });
  }
  int count() {
    const std::lock_guard lock(mutex_);
    return count_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int count_ = 0;
};

}  // namespace token_refresh::test
