#include "core/curl_transport.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netdb.h>
#include <signal.h>
#include <sys/stat.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <mutex>

#include "http_driver.h"
#include "loopback_server.h"

namespace token_refresh::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

class CurlTransportTest : public testing::Test {
 protected:
  // One exchange with a server that answers so and closes.
  HttpResponse AnswerTo(std::string answer) {
    LoopbackServer server(Once(std::move(answer)));
    return Exchange(*transport_, PostTo(server.Url()));
  }

  std::unique_ptr<CurlTransport> transport_ = MakeTransport();
};

std::string BodyOf(const HttpResponse& response) { return std::string(response.body.view()); }

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

LoopbackServer::Handler LogAndAnswer(RequestLog& log, std::string answer) {
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

TEST_F(CurlTransportTest, SendsTheRequestAsGivenAndReturnsTheAnswer) {
  RequestLog log;
  LoopbackServer server(LogAndAnswer(log, OkAnswer("{\"a\":1}")));
  HttpRequest request = PostTo(server.Url("/token?x=1"), "grant_type=refresh_token");
  request.headers.push_back({"Authorization", Secret("Basic ZmFrZTpmYWtl")});
  request.headers.push_back({"Accept", Secret("application/json")});
  request.headers.push_back({"X-Empty", Secret(" ")});
  const HttpResponse response = Exchange(*transport_, std::move(request));

  EXPECT_EQ(response.failure, TransportFailure::kNone);
  EXPECT_EQ(response.failure_message, "");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(BodyOf(response), "{\"a\":1}");
  EXPECT_GT(response.duration, 0);
  EXPECT_FALSE(response.resent);
  ASSERT_EQ(log.all().size(), 1u);
  EXPECT_THAT(log.all()[0],
              AllOf(StartsWith("POST /token?x=1 HTTP/1.1\r\n"), HasSubstr("\r\nAuthorization: Basic ZmFrZTpmYWtl\r\n"),
                    HasSubstr("\r\nAccept: application/json\r\n"), HasSubstr("\r\nX-Empty:\r\n"),
                    HasSubstr("\r\nContent-Length: 24\r\n"), testing::EndsWith("\r\n\r\ngrant_type=refresh_token")));
  EXPECT_THAT(log.all()[0], Not(HasSubstr("Expect")));
  EXPECT_THAT(log.all()[0], Not(HasSubstr("Accept-Encoding")));
}

TEST_F(CurlTransportTest, TheQueryIsAddedForOneRequestOnly) {
  RequestLog log;
  LoopbackServer server(LogAndAnswer(log, OkAnswer("ok")));
  for (const char* path : {"/token", "/token?x=1"}) {
    for (const char* query : {"a=1&b=fake%2Ftoken", "", "a=2"}) {
      HttpRequest request;
      request.method = "GET";
      request.url = server.Url(path);
      request.query = Secret(query);
      EXPECT_EQ(BodyOf(Exchange(*transport_, std::move(request))), "ok");
    }
  }
  std::vector<std::string> lines;
  for (const std::string& request : log.all()) lines.push_back(request.substr(0, request.find(" HTTP")));
  EXPECT_THAT(lines, testing::ElementsAre("GET /token?a=1&b=fake%2Ftoken", "GET /token", "GET /token?a=2",
                                          "GET /token?x=1&a=1&b=fake%2Ftoken", "GET /token?x=1", "GET /token?x=1&a=2"));
  EXPECT_EQ(server.accepted(), 1);
}

TEST_F(CurlTransportTest, AQueryIsNotShownInAFailure) {
  HttpRequest request;
  request.method = "GET";
  request.url = "http://127.0.0.1:1/token";
  request.query = Secret("a=hush");
  const HttpResponse response = Exchange(*transport_, std::move(request));
  EXPECT_EQ(response.failure, TransportFailure::kNotSent);
  EXPECT_THAT(response.failure_message, Not(HasSubstr("hush")));
}

// The name is no loopback name, but leads there: what DNS rebinding does.
TEST_F(CurlTransportTest, AnotherNameDoesNotLeadToLoopback) {
  LoopbackServer server(Always(OkAnswer("inside")));
  const std::string port = server.Url("").substr(server.Url("").rfind(':'));
  for (const char* host : {"sub.localhost", "[::ffff:127.0.0.1]"}) {
    HttpRequest request = PostTo("http://" + std::string(host) + port + "/token");
    request.allow_insecure_http = true;
    const HttpResponse response = Exchange(*transport_, std::move(request));
    EXPECT_EQ(response.failure, TransportFailure::kRefused) << host;
    EXPECT_THAT(response.failure_message,
                StartsWith("the host has an address that is not asked: a loopback address, behind another name ("));
  }
  EXPECT_EQ(server.accepted(), 0);
  EXPECT_EQ(BodyOf(Exchange(*transport_, PostTo(server.Url()))), "inside");
}

TEST_F(CurlTransportTest, AddressesOfMetadataServicesAreNotAsked) {
  for (const char* url : {"https://169.254.169.254/token", "https://[fe80::1]/token", "https://2852039166/",
                          "https://[fd00:ec2::254]/", "https://0.0.0.0/", "https://[::]/", "https://224.0.0.1/"}) {
    const HttpResponse response = Exchange(*transport_, PostTo(url));
    EXPECT_EQ(response.failure, TransportFailure::kRefused) << url;
    EXPECT_THAT(response.failure_message, StartsWith("the host has an address that is not asked: ")) << url;
  }
}

// libcurl finds a kept connection by the name of the host and looks at no address again. One that was made for a
// request that may go there is none for another that may not.
TEST_F(CurlTransportTest, AKeptConnectionIsHeldToTheRulesOfEachRequest) {
  RequestLog log;
  LoopbackServer server(LogAndAnswer(log, OkAnswer("ok")));
  const auto request = [&](bool special) {
    HttpRequest request = PostTo("http://0.0.0.0:" + std::to_string(server.port()) + "/token");
    request.allow_insecure_http = true;
    request.allow_special_addresses = special;
    return request;
  };
  for (int round = 1; round <= 2; ++round) {
    EXPECT_EQ(BodyOf(Exchange(*transport_, request(true))), "ok");
    EXPECT_EQ(BodyOf(Exchange(*transport_, request(true))), "ok");
    EXPECT_EQ(server.accepted(), round) << "the connection is kept";
    for (int i = 0; i < 2; ++i) {
      const HttpResponse response = Exchange(*transport_, request(false));
      EXPECT_EQ(response.failure, TransportFailure::kRefused);
      EXPECT_THAT(response.failure_message, StartsWith("the host has an address that is not asked: "));
      EXPECT_FALSE(response.resent);
    }
    EXPECT_EQ(log.all().size(), 2u * round);
  }
}

TEST_F(CurlTransportTest, LargeBodyIsSentWholeAndWithoutAsking) {
  RequestLog log;
  LoopbackServer server(LogAndAnswer(log, OkAnswer("ok")));
  const std::string body(300 * 1000, 'x');
  EXPECT_EQ(BodyOf(Exchange(*transport_, PostTo(server.Url(), body))), "ok");
  ASSERT_EQ(log.all().size(), 1u);
  EXPECT_THAT(log.all()[0], AllOf(testing::EndsWith(body), Not(HasSubstr("Expect"))));
}

TEST_F(CurlTransportTest, UsesOneConnectionForOneRequestAfterAnother) {
  LoopbackServer server(Always(OkAnswer("kept")));
  for (int i = 0; i < 20; ++i) ASSERT_EQ(BodyOf(Exchange(*transport_, PostTo(server.Url()))), "kept");
  EXPECT_EQ(server.accepted(), 1);
}

TEST_F(CurlTransportTest, NothingOfOneRequestShowsInTheNextOnTheSameHandle) {
  RequestLog log, other_log;
  LoopbackServer server(LogAndAnswer(log, OkAnswer("one", "Retry-After: 5\r\nContent-Type: text/plain\r\n")));
  LoopbackServer other(LogAndAnswer(other_log, OkAnswer("two")));
  HttpRequest first = PostTo(server.Url("/first"), "body-of-first");
  first.headers.push_back({"X-First", Secret("yes")});
  EXPECT_EQ(Exchange(*transport_, std::move(first)).retry_after, "5");
  HttpRequest second;
  second.method = "GET";
  second.url = other.Url("/second");
  const HttpResponse response = Exchange(*transport_, std::move(second));
  EXPECT_EQ(BodyOf(response), "two");
  EXPECT_EQ(response.retry_after, "");
  EXPECT_EQ(response.content_type, "");
  EXPECT_EQ(BodyOf(Exchange(*transport_, PostTo(server.Url("/third"), ""))), "one");
  ASSERT_EQ(log.all().size(), 2u);
  ASSERT_EQ(other_log.all().size(), 1u);
  EXPECT_THAT(other_log.all()[0],
              AllOf(StartsWith("GET /second "), Not(HasSubstr("X-First")), Not(HasSubstr("body-of-first"))));
  EXPECT_THAT(log.all()[1], AllOf(StartsWith("POST /third "), HasSubstr("Content-Length: 0\r\n"),
                                  Not(HasSubstr("X-First")), testing::EndsWith("\r\n\r\n")));
}

TEST_F(CurlTransportTest, CarriesTwoHundredRequestsAtOnce) {
  constexpr int kRequests = 200;
  Tally arrived;
  // Nobody is answered before all have arrived.
  LoopbackServer server([&](Connection& connection) {
    while (std::optional<std::string> request = connection.ReadRequest()) {
      arrived.Add();
      if (!arrived.Await(kRequests)) return;
      connection.Send(OkAnswer(request->substr(request->rfind('\n') + 1)));
    }
  });
  for (int i = 0; i < kRequests; ++i) transport_->Submit(i, PostTo(server.Url(), "number=" + std::to_string(i)));
  EXPECT_EQ(transport_->in_flight(), size_t{kRequests});
  const Responses responses = CollectAll(*transport_, kRequests);
  ASSERT_EQ(responses.size(), size_t{kRequests});
  for (const auto& [id, response] : responses) EXPECT_EQ(BodyOf(response), "number=" + std::to_string(id));
  EXPECT_EQ(server.accepted(), kRequests);
  EXPECT_EQ(transport_->in_flight(), 0u);
}

TEST_F(CurlTransportTest, RequestsBeyondTheConnectionLimitWaitForAConnection) {
  CurlTransport::Options options;
  options.max_connections = 3;
  const auto transport = MakeTransport(options);
  LoopbackServer server(Always(OkAnswer("ok")));
  for (int i = 0; i < 100; ++i) transport->Submit(i, PostTo(server.Url()));
  for (const auto& [id, response] : CollectAll(*transport, 100)) EXPECT_EQ(BodyOf(response), "ok") << id;
  EXPECT_LE(server.accepted(), 3);
}

TEST_F(CurlTransportTest, CapturesContentTypeAndRetryAfter) {
  const HttpResponse response = AnswerTo(
      "HTTP/1.1 429 Too Many Requests\r\ncontent-TYPE:  Application/JSON ; charset=utf-8\r\n"
      "RETRY-after: Wed, 21 Oct 2026 07:28:00 GMT\r\nContent-Length: 2\r\n\r\n{}");
  EXPECT_EQ(response.failure, TransportFailure::kNone);
  EXPECT_EQ(response.status, 429);
  EXPECT_EQ(response.content_type, "application/json");
  EXPECT_EQ(response.retry_after, "Wed, 21 Oct 2026 07:28:00 GMT");
}

TEST_F(CurlTransportTest, ReadsChunkedBodyAndIgnoresTrailers) {
  const HttpResponse response = AnswerTo(
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: a/b\r\n\r\n"
      "3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nRetry-After: 9\r\nContent-Type: c/d\r\n\r\n");
  EXPECT_EQ(response.failure, TransportFailure::kNone);
  EXPECT_EQ(BodyOf(response), "abcdefg");
  EXPECT_EQ(response.content_type, "a/b");
  EXPECT_EQ(response.retry_after, "");
}

TEST_F(CurlTransportTest, ReadsHttp10BodyThatEndsWithTheConnection) {
  const HttpResponse response = AnswerTo("HTTP/1.0 200 OK\r\n\r\nuntil the end");
  EXPECT_EQ(response.failure, TransportFailure::kNone);
  EXPECT_EQ(BodyOf(response), "until the end");
}

TEST_F(CurlTransportTest, SkipsInterimAnswers) {
  const HttpResponse response =
      AnswerTo("HTTP/1.1 100 Continue\r\nRetry-After: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\nContent-Type: x/y\r\n\r\n" +
               OkAnswer("final"));
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(BodyOf(response), "final");
  EXPECT_EQ(response.retry_after, "");
  EXPECT_EQ(response.content_type, "");
}

TEST_F(CurlTransportTest, NulBytesInTheBodySurvive) {
  const std::string body("a\0b\0", 4);
  EXPECT_EQ(BodyOf(AnswerTo(OkAnswer(body))), body);
}

TEST_F(CurlTransportTest, DoesNotUndoContentEncoding) {
  const HttpResponse response = AnswerTo(OkAnswer("\x1f\x8bnot really", "Content-Encoding: gzip\r\n"));
  EXPECT_EQ(response.failure, TransportFailure::kNone);
  EXPECT_EQ(BodyOf(response), "\x1f\x8bnot really");
}

TEST_F(CurlTransportTest, EmptyAnswerBodyIsAnAnswer) {
  const HttpResponse response = AnswerTo("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
  EXPECT_EQ(response.failure, TransportFailure::kNone);
  EXPECT_EQ(response.status, 400);
  EXPECT_TRUE(response.body.empty());
}

TEST_F(CurlTransportTest, RedirectIsReturnedNotFollowed) {
  LoopbackServer other(Always(OkAnswer("stolen")));
  for (const char* status : {"301", "302", "303", "307", "308"}) {
    const HttpResponse response = AnswerTo("HTTP/1.1 " + std::string(status) + " Moved\r\nLocation: " + other.Url() +
                                           "\r\nContent-Length: 0\r\n\r\n");
    EXPECT_EQ(response.failure, TransportFailure::kNone);
    EXPECT_EQ(std::to_string(response.status), status);
  }
  EXPECT_EQ(other.accepted(), 0);
}

TEST_F(CurlTransportTest, CookiesAreNotKept) {
  RequestLog log;
  LoopbackServer server(LogAndAnswer(log, OkAnswer("ok", "Set-Cookie: a=b; Path=/\r\n")));
  Exchange(*transport_, PostTo(server.Url()));
  Exchange(*transport_, PostTo(server.Url()));
  ASSERT_EQ(log.all().size(), 2u);
  EXPECT_THAT(log.all()[1], Not(HasSubstr("Cookie")));
}

TEST_F(CurlTransportTest, ProxyOfTheEnvironmentIsIgnored) {
  LoopbackServer server(Always(OkAnswer("direct")));
  LoopbackServer proxy(Always(OkAnswer("by proxy")));
  setenv("http_proxy", proxy.Url("/").c_str(), 1);
  setenv("ALL_PROXY", proxy.Url("/").c_str(), 1);
  EXPECT_EQ(BodyOf(Exchange(*transport_, PostTo(server.Url()))), "direct");
  unsetenv("http_proxy");
  unsetenv("ALL_PROXY");
  EXPECT_EQ(proxy.accepted(), 0);
}

// Bounds

TEST_F(CurlTransportTest, BodyOfOneMebibyteIsTakenOneByteMoreIsNot) {
  const HttpResponse largest = AnswerTo(OkAnswer(std::string(kMaxResponseBytes, 'x')));
  EXPECT_EQ(largest.failure, TransportFailure::kNone);
  EXPECT_EQ(largest.body.size(), kMaxResponseBytes);

  const HttpResponse larger = AnswerTo(OkAnswer(std::string(kMaxResponseBytes + 1, 'x')));
  EXPECT_EQ(larger.failure, TransportFailure::kTooLarge);
  EXPECT_THAT(larger.failure_message, StartsWith("the answer is too large (127.0.0.1:"));
  EXPECT_TRUE(larger.body.empty());
}

TEST_F(CurlTransportTest, EndlessBodyIsCutOff) {
  LoopbackServer server([](Connection& connection) {
    connection.ReadRequest();
    bool open = connection.Send("HTTP/1.1 200 OK\r\n\r\n");
    while (open) open = connection.Send(std::string(65536, 'x'));
  });
  EXPECT_EQ(Exchange(*transport_, PostTo(server.Url())).failure, TransportFailure::kTooLarge);
}

TEST_F(CurlTransportTest, HeadersAreBounded) {
  std::string allowed = "HTTP/1.1 200 OK\r\n", refused = allowed;
  const std::string line = "X-Padding: " + std::string(1000, 'x') + "\r\n";
  while (allowed.size() + line.size() < kMaxResponseHeaderBytes - 100) allowed += line;
  while (refused.size() <= kMaxResponseHeaderBytes) refused += line;
  EXPECT_EQ(AnswerTo(allowed + "Content-Length: 0\r\n\r\n").failure, TransportFailure::kNone);
  EXPECT_EQ(AnswerTo(refused + "Content-Length: 0\r\n\r\n").failure, TransportFailure::kTooLarge);
}

TEST_F(CurlTransportTest, EndlessHeadersAndInterimAnswersAreCutOff) {
  const std::pair<std::string, std::string> starts_and_rests[] = {
      {"HTTP/1.1 200 OK\r\nX: ", std::string(65536, 'x')},
      {"HTTP/1.1 200 OK\r\n", "X: y\r\n"},
      {"", "HTTP/1.1 102 Processing\r\n\r\n"},
  };
  for (const auto& [start, rest] : starts_and_rests) {
    LoopbackServer server([start = start, rest = rest](Connection& connection) {
      connection.ReadRequest();
      bool open = connection.Send(start);
      while (open) open = connection.Send(rest);
    });
    const HttpResponse response = Exchange(*transport_, PostTo(server.Url()));
    EXPECT_EQ(response.failure, TransportFailure::kTooLarge) << start.size() << response.failure_message;
  }
}

// What is lost on the way

TEST_F(CurlTransportTest, SilenceUntilTheTimeoutMayHaveBeenHandled) {
  Tally arrived;
  LoopbackServer server([&](Connection& connection) {
    if (connection.ReadRequest()) arrived.Add();
    connection.AwaitPeerClose();
  });
  HttpRequest request = PostTo(server.Url("/secret-path?secret=query"));
  request.timeout = 150 * kMillisecond;
  const HttpResponse response = Exchange(*transport_, std::move(request));
  EXPECT_TRUE(arrived.Await(1));
  EXPECT_EQ(response.failure, TransportFailure::kMaybeHandled);
  EXPECT_EQ(response.failure_message, "Timeout was reached (127.0.0.1:" + std::to_string(server.port()) + ")");
  EXPECT_GE(response.duration, 140 * kMillisecond);
}

TEST_F(CurlTransportTest, BodyThatStopsHalfWayRunsIntoTheTimeout) {
  LoopbackServer server([](Connection& connection) {
    connection.ReadRequest();
    connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    connection.AwaitPeerClose();
  });
  HttpRequest request = PostTo(server.Url());
  request.timeout = 150 * kMillisecond;
  EXPECT_EQ(Exchange(*transport_, std::move(request)).failure, TransportFailure::kMaybeHandled);
}

TEST_F(CurlTransportTest, HandshakeThatHangsWasNotSent) {
  LoopbackServer server([](Connection& connection) { connection.AwaitPeerClose(); });
  HttpRequest request = PostTo("https://127.0.0.1:" + std::to_string(server.port()) + "/token");
  request.connect_timeout = 150 * kMillisecond;
  EXPECT_EQ(Exchange(*transport_, std::move(request)).failure, TransportFailure::kNotSent);
}

TEST_F(CurlTransportTest, ServerThatSpeaksNoTlsWasNotSent) {
  LoopbackServer server([](Connection& connection) { connection.Send("HTTP/1.1 400 Bad Request\r\n\r\n"); });
  const HttpResponse response =
      Exchange(*transport_, PostTo("https://127.0.0.1:" + std::to_string(server.port()) + "/token"));
  EXPECT_EQ(response.failure, TransportFailure::kNotSent);
}

TEST_F(CurlTransportTest, RefusedConnectionWasNotSent) {
  // Bound but not listening: nobody else can take the port.
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = LoopbackServer::Loopback(0);
  socklen_t length = sizeof address;
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length), 0);
  const std::string host = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  const HttpResponse response = Exchange(*transport_, PostTo("http://" + host + "/secret-path?secret=query"));
  close(fd);
  EXPECT_EQ(response.failure, TransportFailure::kNotSent);
  EXPECT_THAT(response.failure_message, testing::EndsWith(": Connection refused (" + host + ")"));
  EXPECT_THAT(response.failure_message, Not(HasSubstr("secret")));
}

TEST_F(CurlTransportTest, CloseBeforeTheAnswerMayHaveBeenHandledAndIsNotRepeated) {
  RequestLog log;
  LoopbackServer server([&](Connection& connection) {
    if (auto request = connection.ReadRequest()) log.Add(*request);
  });
  const HttpResponse response = Exchange(*transport_, PostTo(server.Url()));
  EXPECT_EQ(response.failure, TransportFailure::kMaybeHandled);
  EXPECT_FALSE(response.resent);
  EXPECT_EQ(log.all().size(), 1u);
}

TEST_F(CurlTransportTest, TruncatedAnswersMayHaveBeenHandledAndKeepWhatArrived) {
  for (const char* answer : {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"a\":1}",
                             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{\"a\":1}\r\n"}) {
    const HttpResponse response = AnswerTo(answer);
    EXPECT_EQ(response.failure, TransportFailure::kMaybeHandled) << answer;
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(BodyOf(response), "{\"a\":1}");
  }
}

TEST_F(CurlTransportTest, ResetInTheMiddleOfTheBodyMayHaveBeenHandled) {
  LoopbackServer server([](Connection& connection) {
    connection.ReadRequest();
    connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    connection.ResetOnClose();
  });
  EXPECT_EQ(Exchange(*transport_, PostTo(server.Url())).failure, TransportFailure::kMaybeHandled);
}

TEST_F(CurlTransportTest, WhatIsNoHttpMayHaveBeenHandled) {
  for (const char* answer :
       {"garbage\r\n\r\n", "HTTP/9.9 200 OK\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 200 OK\r\nContent-Len",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", "HTTP/1.1 100 Continue\r\n\r\n"}) {
    const HttpResponse response = AnswerTo(answer);
    EXPECT_EQ(response.failure, TransportFailure::kMaybeHandled) << answer;
    EXPECT_THAT(response.failure_message, AllOf(Not(HasSubstr("garbage")), Not(testing::IsEmpty())));
  }
}

// Kept connections that die

TEST_F(CurlTransportTest, ConnectionThatWasClosedWhileIdleIsReplaced) {
  Tally closed;
  LoopbackServer server([&](Connection& connection) {
    connection.ReadRequest();
    connection.Send(OkAnswer("once"));
    shutdown(connection.fd(), SHUT_RDWR);
    closed.Add();
  });
  for (int i = 1; i <= 3; ++i) {
    const HttpResponse response = Exchange(*transport_, PostTo(server.Url()));
    EXPECT_EQ(BodyOf(response), "once");
    EXPECT_FALSE(response.resent);
    ASSERT_TRUE(closed.Await(i));
  }
  EXPECT_EQ(server.accepted(), 3);
}

TEST_F(CurlTransportTest, IdleConnectionThatIsClosedDoesNotKeepTheOwnerAwake) {
  LoopbackServer server(Once(OkAnswer("once")));
  EXPECT_EQ(BodyOf(Exchange(*transport_, PostTo(server.Url()))), "once");
  // The hang-up wakes the owner once at most.
  pollfd waited{transport_->descriptor(), POLLIN, 0};
  poll(&waited, 1, 2000);
  EXPECT_TRUE(transport_->Collect().empty());
  EXPECT_EQ(poll(&waited, 1, 0), 0);
  EXPECT_NE(transport_->NextTimeout(), std::optional<Micros>(0));
}

TEST_F(CurlTransportTest, RequestOnAConnectionThatDiesUnansweredIsSentOnceMoreAndSaysSo) {
  RequestLog log;
  LoopbackServer server([&](Connection& connection) {
    // Answers one request a connection; the second is read and dropped.
    for (int i = 0; i < 2; ++i) {
      const std::optional<std::string> request = connection.ReadRequest();
      if (!request) return;
      log.Add(*request);
      if (i == 0) connection.Send(OkAnswer("first"));
    }
  });
  EXPECT_FALSE(Exchange(*transport_, PostTo(server.Url())).resent);
  const HttpResponse response = Exchange(*transport_, PostTo(server.Url(), "token=x"));
  EXPECT_EQ(response.failure, TransportFailure::kNone);
  EXPECT_EQ(BodyOf(response), "first");
  EXPECT_TRUE(response.resent);
  EXPECT_EQ(log.all().size(), 3u);
  EXPECT_THAT(log.all()[2], testing::EndsWith("token=x"));
}

TEST_F(CurlTransportTest, WhatMayGoOutOnlyOnceTakesNoKeptConnection) {
  Tally arrived;
  LoopbackServer server([&](Connection& connection) {
    // Answers one request a connection; the second is read and dropped.
    for (int i = 0; i < 2; ++i) {
      if (!connection.ReadRequest()) return;
      arrived.Add();
      if (i == 0) connection.Send(OkAnswer("first"));
    }
  });
  ASSERT_EQ(BodyOf(Exchange(*transport_, PostTo(server.Url()))), "first");
  HttpRequest request = PostTo(server.Url(), "code=x");
  request.only_once = true;
  const HttpResponse response = Exchange(*transport_, std::move(request));
  EXPECT_EQ(BodyOf(response), "first");
  EXPECT_FALSE(response.resent);
  EXPECT_EQ(arrived.count(), 2);
}

TEST_F(CurlTransportTest, WhatMayGoOutOnlyOnceIsNotSentAgain) {
  Tally arrived;
  LoopbackServer server([&](Connection& connection) {
    if (connection.ReadRequest()) arrived.Add();
  });
  HttpRequest request = PostTo(server.Url(), "code=x");
  request.only_once = true;
  EXPECT_EQ(Exchange(*transport_, std::move(request)).failure, TransportFailure::kMaybeHandled);
  EXPECT_EQ(arrived.count(), 1);
}

TEST_F(CurlTransportTest, RequestIsNeverSentAThirdTime) {
  constexpr int kConnections = 6;
  Tally arrived;
  std::atomic<int> dropped = 0;
  LoopbackServer server([&](Connection& connection) {
    if (!connection.ReadRequest()) return;
    arrived.Add();
    if (!arrived.Await(kConnections)) return;
    connection.Send(OkAnswer("first"));
    if (connection.ReadRequest()) ++dropped;
  });
  for (int i = 0; i < kConnections; ++i) transport_->Submit(i, PostTo(server.Url()));
  ASSERT_EQ(CollectAll(*transport_, kConnections).size(), size_t{kConnections});
  const HttpResponse response = Exchange(*transport_, PostTo(server.Url()));
  EXPECT_EQ(response.failure, TransportFailure::kMaybeHandled);
  EXPECT_TRUE(response.resent);
  EXPECT_EQ(dropped, 2);
}

// What is refused before anything is sent

TEST_F(CurlTransportTest, PlainHttpIsForLoopbackUnlessAllowed) {
  LoopbackServer server(Always(OkAnswer("ok")));
  // The unspecified address reaches this machine, but is not a loopback address.
  const std::string url = "http://0.0.0.0:" + std::to_string(server.port()) + "/token?secret=query";
  HttpResponse response = Exchange(*transport_, PostTo(url));
  EXPECT_EQ(response.failure, TransportFailure::kRefused);
  EXPECT_THAT(response.failure_message, AllOf(HasSubstr("loopback"), Not(HasSubstr("secret"))));
  EXPECT_EQ(server.accepted(), 0);
  HttpRequest allowed = PostTo(url);
  allowed.allow_insecure_http = true;
  allowed.allow_special_addresses = true;
  response = Exchange(*transport_, std::move(allowed));
  EXPECT_EQ(BodyOf(response), "ok");
  EXPECT_EQ(Exchange(*transport_, PostTo(url)).failure, TransportFailure::kRefused);
}

TEST_F(CurlTransportTest, LocalhostIsLoopbackAndNotLookedUp) {
  LoopbackServer server(Always(OkAnswer("ok")));
  const HttpResponse response = Exchange(*transport_, PostTo("HTTP://localhost:" + std::to_string(server.port())));
  EXPECT_EQ(BodyOf(response), "ok") << response.failure_message;
}

// Many quick answers, many rounds: whatever completes must be delivered without anybody waiting for a timeout.
TEST_F(CurlTransportTest, NoCompletionIsLeftBehind) {
  LoopbackServer server(Always(OkAnswer("ok")));
  const auto start = std::chrono::steady_clock::now();
  for (int round = 0; round < 100; ++round) {
    for (int i = 0; i < 40; ++i) transport_->Submit(i, PostTo(server.Url()));
    ASSERT_EQ(CollectAll(*transport_, 40).size(), 40u);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  EXPECT_LE(server.accepted(), 40);
}

TEST_F(CurlTransportTest, OtherProtocolsAndBrokenUrlsAreRefused) {
  for (const char* url : {"ftp://127.0.0.1/", "file:///etc/hostname", "gopher://127.0.0.1:1/", "", "127.0.0.1",
                          "https://", "https:// space/", "https://127.0.0.1:99999/"}) {
    const HttpResponse response = Exchange(*transport_, PostTo(url));
    EXPECT_EQ(response.failure, TransportFailure::kRefused) << url;
    EXPECT_NE(response.failure_message, "") << url;
  }
}

TEST_F(CurlTransportTest, UserNameInTheUrlIsRefusedAndNotShown) {
  LoopbackServer server(Always(OkAnswer("ok")));
  const std::string place = "127.0.0.1:" + std::to_string(server.port());
  for (const char* scheme : {"http://", "https://"}) {
    const HttpResponse response = Exchange(*transport_, PostTo(scheme + std::string("user:fakeword@") + place + "/"));
    EXPECT_EQ(response.failure, TransportFailure::kRefused);
    EXPECT_THAT(response.failure_message, AllOf(HasSubstr(place), Not(HasSubstr("fakeword"))));
  }
  EXPECT_EQ(server.accepted(), 0);
}

TEST_F(CurlTransportTest, OtherMethodsAreRefused) {
  for (const char* method : {"PUT", "post", "", "POST / HTTP/1.1\r\nX: "}) {
    HttpRequest request = PostTo("http://127.0.0.1:9/");
    request.method = method;
    EXPECT_EQ(Exchange(*transport_, std::move(request)).failure, TransportFailure::kRefused) << method;
  }
}

TEST_F(CurlTransportTest, HeadersThatCouldSmuggleAreRefused) {
  LoopbackServer server(Always(OkAnswer("ok")));
  const std::pair<std::string, std::string> headers[] = {
      {"X", "a\r\nY: b"}, {"X", "a\nb"},       {"X", std::string("a\0b", 3)},
      {"X", "a\x7f"},     {"X\r\nY", "value"}, {"X: y", "z"},
      {"", "value"},      {"X y", "value"}};
  for (const auto& [name, value] : headers) {
    HttpRequest request = PostTo(server.Url());
    request.headers.push_back({name, Secret(value)});
    EXPECT_EQ(Exchange(*transport_, std::move(request)).failure, TransportFailure::kRefused) << name;
  }
  EXPECT_EQ(server.accepted(), 0);
}

TEST_F(CurlTransportTest, RefusalIsDeliveredByTheNextCollect) {
  EXPECT_EQ(transport_->NextTimeout(), std::nullopt);
  transport_->Submit(3, PostTo("ftp://127.0.0.1/"));
  EXPECT_EQ(transport_->in_flight(), 1u);
  EXPECT_EQ(transport_->NextTimeout(), std::optional<Micros>(0));
  const std::vector<HttpCompletion> completions = transport_->Collect();
  ASSERT_EQ(completions.size(), 1u);
  EXPECT_EQ(completions[0].id, 3u);
  EXPECT_EQ(transport_->in_flight(), 0u);
}

// The process around it

TEST_F(CurlTransportTest, SubmittedRequestAsksToBeStarted) {
  LoopbackServer server(Always(OkAnswer("ok")));
  transport_->Submit(1, PostTo(server.Url()));
  EXPECT_EQ(transport_->NextTimeout(), std::optional<Micros>(0));
  EXPECT_EQ(CollectAll(*transport_, 1).size(), 1u);
}

TEST_F(CurlTransportTest, DestructionWithRequestsInFlightClosesTheirConnections) {
  constexpr int kRequests = 50;
  Tally arrived, closed;
  LoopbackServer server([&](Connection& connection) {
    connection.ReadRequest();
    arrived.Add();
    connection.AwaitPeerClose();
    closed.Add();
  });
  for (int i = 0; i < kRequests; ++i) transport_->Submit(i, PostTo(server.Url()));
  while (server.accepted() < kRequests) {
    EXPECT_TRUE(transport_->Collect().empty());
    WaitFor(*transport_, 10 * kMillisecond);
  }
  transport_->Submit(99, PostTo(server.Url()));   // not started
  transport_->Submit(100, PostTo("ftp://none"));  // not delivered
  transport_.reset();
  EXPECT_TRUE(closed.Await(kRequests));
}

TEST_F(CurlTransportTest, SocketsAreNotInheritedByPrograms) {
  LoopbackServer server(Always(OkAnswer("ok")));
  Exchange(*transport_, PostTo(server.Url()));
  int sockets = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const int fd = std::atoi(entry.path().filename().c_str());
    sockaddr_in peer{};
    socklen_t length = sizeof peer;
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &length) != 0 || peer.sin_family != AF_INET) continue;
    ++sockets;
    EXPECT_TRUE(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  }
  EXPECT_GE(sockets, 2);  // both ends of the kept connection
  EXPECT_TRUE(fcntl(transport_->descriptor(), F_GETFD) & FD_CLOEXEC);
}

// The resolver: its threads call the getaddrinfo() below instead of the system's.

// While held, every look-up waits. Lives as long as the process, as a resolver's thread may outlast its test.
class Resolver {
 public:
  void Hold() {
    const std::lock_guard lock(mutex_);
    held_ = true;
  }
  // Returns when the look-ups have ended.
  void Release() {
    std::unique_lock lock(mutex_);
    held_ = false;
    changed_.notify_all();
    changed_.wait(lock, [&] { return waiting_ == 0; });
  }
  void LookUp() {
    sigset_t mask;
    pthread_sigmask(SIG_BLOCK, nullptr, &mask);
    std::unique_lock lock(mutex_);
    ++waiting_;
    for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGALRM}) {
      if (sigismember(&mask, signal) != 1) signals_blocked_ = false;
    }
    changed_.notify_all();
    changed_.wait(lock, [&] { return !held_; });
    --waiting_;
    changed_.notify_all();
  }
  bool AwaitWaiting(int count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] { return waiting_ >= count; });
  }
  bool signals_blocked() {
    const std::lock_guard lock(mutex_);
    return signals_blocked_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = false;
  int waiting_ = 0;
  bool signals_blocked_ = true;
};
Resolver resolver;

TEST_F(CurlTransportTest, ResolverThatHangsHoldsUpNothingAndRunsWithSignalsBlocked) {
  resolver.Hold();
  HttpRequest request = PostTo("http://resolver.invalid/token");
  request.allow_insecure_http = true;
  request.connect_timeout = 200 * kMillisecond;
  const HttpResponse response = Exchange(*transport_, std::move(request));
  EXPECT_EQ(response.failure, TransportFailure::kNotSent);
  EXPECT_LT(response.duration, 5 * kSecond);

  HttpRequest another = PostTo("http://resolver.invalid/token");
  another.allow_insecure_http = true;
  transport_->Submit(1, std::move(another));
  transport_->Collect();
  EXPECT_TRUE(resolver.AwaitWaiting(2));
  transport_.reset();  // must not wait for the resolver either, or this test never ends
  resolver.Release();

  EXPECT_TRUE(resolver.signals_blocked());
  sigset_t mask;
  pthread_sigmask(SIG_BLOCK, nullptr, &mask);
  EXPECT_EQ(sigismember(&mask, SIGTERM), 0);
}

TEST_F(CurlTransportTest, UnknownHostWasNotSent) {
  HttpRequest request = PostTo("http://resolver.invalid/token");
  request.allow_insecure_http = true;
  const HttpResponse response = Exchange(*transport_, std::move(request));
  EXPECT_EQ(response.failure, TransportFailure::kNotSent);
  EXPECT_THAT(response.failure_message, HasSubstr("(resolver.invalid)"));
}

}  // namespace
}  // namespace token_refresh::test

// Found by libcurl before the system's. The tests look nothing up but this one name.
extern "C" int getaddrinfo(const char*, const char*, const addrinfo*, addrinfo** result) {
  token_refresh::test::resolver.LookUp();
  *result = nullptr;
  return EAI_NONAME;
}
