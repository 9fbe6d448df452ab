// HttpTransport on libcurl's multi interface: many requests at once over kept
// connections, driven by epoll so that a thousand of them cost no more than the
// few that are ready. Lives in the refresher; nothing else may own one.
//
// The owner waits until descriptor() is readable or NextTimeout() has passed,
// then calls Collect(). No call blocks. Signals are blocked around libcurl
// because its resolver starts threads. TLS is verified, redirects are refused,
// only http and https are spoken, plain http only to loopback unless allowed.
#pragma once

#include <memory>
#include <optional>

#include "core/http.h"
#include "core/result.h"

namespace token_refresh {

class CurlTransport final : public HttpTransport {
 public:
  struct Options {
    size_t max_connections = 4096;         // kept open at the most
    size_t max_connections_per_host = 0;   // 0: no limit of its own
    Micros idle_connection_age = 110 * kSecond;
  };

  static Result<std::unique_ptr<CurlTransport>> Create(const Options& options);
  ~CurlTransport() override;

  void Submit(uint64_t id, HttpRequest request) override;
  std::vector<HttpCompletion> Collect() override;
  size_t in_flight() const override;

  // Readable when Collect() has something to do.
  int descriptor() const;
  // How long the owner may wait before it must call Collect() anyway;
  // nothing when only the descriptor matters.
  std::optional<Micros> NextTimeout() const;

 private:
  struct Impl;
  explicit CurlTransport(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// True for 127.0.0.0/8, [::1] and localhost as the host of an http(s) URL.
bool IsLoopbackUrl(const std::string& url);

}  // namespace token_refresh
