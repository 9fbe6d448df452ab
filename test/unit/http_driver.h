// Drives a CurlTransport in tests the way the refresher does: wait on its
// descriptor and its timeout, then collect.
#pragma once

#include <poll.h>

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "core/curl_transport.h"
#include "gtest/gtest.h"

namespace token_refresh::test {

inline std::unique_ptr<CurlTransport> MakeTransport(const CurlTransport::Options& options = {}) {
  Result<std::unique_ptr<CurlTransport>> transport = CurlTransport::Create(options);
  EXPECT_TRUE(transport.ok());
  return std::move(transport).value();
}

// Waits as NextTimeout() says, but not beyond what is left of limit.
inline void WaitFor(const CurlTransport& transport, Micros limit) {
  const Micros wait = std::min(transport.NextTimeout().value_or(limit), limit);
  pollfd waited{transport.descriptor(), POLLIN, 0};
  poll(&waited, 1, static_cast<int>((wait + kMillisecond - 1) / kMillisecond));
}

using Responses = std::map<uint64_t, HttpResponse>;

// Until count responses have come; gives up, and fails the test, after half a minute.
inline Responses CollectAll(CurlTransport& transport, size_t count) {
  Responses responses;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (responses.size() < count) {
    for (HttpCompletion& completion : transport.Collect()) {
      EXPECT_TRUE(responses.emplace(completion.id, std::move(completion.response)).second) << "completed twice";
    }
    if (responses.size() >= count) break;
    if (std::chrono::steady_clock::now() > end) {
      ADD_FAILURE() << "only " << responses.size() << " of " << count << " responses arrived";
      break;
    }
    WaitFor(transport, 5 * kSecond);
  }
  return responses;
}

inline HttpResponse Exchange(CurlTransport& transport, HttpRequest request) {
  transport.Submit(7, std::move(request));
  Responses responses = CollectAll(transport, 1);
  EXPECT_EQ(transport.in_flight(), 0u);
  return std::move(responses[7]);
}

inline HttpRequest PostTo(std::string url, std::string_view body = "grant_type=refresh_token") {
  HttpRequest request;
  request.url = std::move(url);
  request.body = Secret(body);
  return request;
}

}  // namespace token_refresh::test
