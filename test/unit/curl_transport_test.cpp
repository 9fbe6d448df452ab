#include "core/curl_transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>

#include "curl_transport_fixture.h"

namespace token_refresh::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

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

}  // namespace
}  // namespace token_refresh::test
