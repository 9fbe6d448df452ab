// The engine's view of HTTP: one request, one response, and a transport that
// carries many at once. Implemented by CurlTransport and by test fakes.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/clock.h"
#include "core/secret.h"

namespace token_refresh {

struct HttpHeader {
  std::string name;
  Secret value;  // an Authorization header is a secret; the others cost nothing extra
};

struct HttpRequest {
  std::string method = "POST";
  std::string url;  // http or https only
  std::vector<HttpHeader> headers;
  Secret body;
  Micros connect_timeout = 5 * kSecond;
  Micros timeout = 30 * kSecond;  // for the whole exchange
  std::string ca_file;            // empty: the system's
  bool allow_insecure_http = false;  // plain http to a host that is not loopback
  bool only_once = false;  // never sent again by itself, so it goes over a connection of its own, which is not yet dead
};

// Why no complete response arrived.
enum class TransportFailure {
  kNone,         // a complete response arrived; look at status
  kNotSent,      // the provider cannot have seen the request (no connection, TLS refused)
  kMaybeHandled, // the request went out, the answer was lost (timeout, reset): it may have been handled
  kTooLarge,     // the answer broke a bound
  kRefused,      // we refuse the request or answer (redirect, insecure http, unsupported protocol)
};

struct HttpResponse {
  TransportFailure failure = TransportFailure::kNone;
  std::string failure_message;  // plain words, no secret, no URL query; empty when failure is kNone
  int status = 0;               // HTTP status
  std::string content_type;     // lower case, without parameters; may be empty
  std::string retry_after;      // header value as sent; may be empty
  Secret body;                  // at most kMaxResponseBytes
  Micros duration = 0;
  // A kept connection died before any answer, and the request was sent once more on another: a refresh
  // token that is called dead now may have been used up by the first sending.
  bool resent = false;
};

constexpr size_t kMaxResponseBytes = 1024 * 1024;
constexpr size_t kMaxResponseHeaderBytes = 256 * 1024;

struct HttpCompletion {
  uint64_t id = 0;
  HttpResponse response;
};

class HttpTransport {
 public:
  virtual ~HttpTransport() = default;
  // Starts a request. The id comes back with the completion. Never blocks.
  virtual void Submit(uint64_t id, HttpRequest request) = 0;
  // Moves transfers on without blocking and returns what has completed since the last call.
  virtual std::vector<HttpCompletion> Collect() = 0;
  virtual size_t in_flight() const = 0;
};

}  // namespace token_refresh
