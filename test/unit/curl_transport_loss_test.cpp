// What is lost on the way, and whether the server may have handled it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "curl_transport_fixture.h"

namespace token_refresh::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

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

TEST_F(CurlTransportTest, ConnectionsMayDieForAsLongAsTheWorkerLives) {
  LoopbackServer server([&](Connection& connection) {
    if (connection.ReadRequest() && connection.Send(OkAnswer("first"))) connection.ReadRequest();
  });
  EXPECT_FALSE(Exchange(*transport_, PostTo(server.Url())).resent);
  for (int i = 0; i < 12; ++i) {
    const HttpResponse response = Exchange(*transport_, PostTo(server.Url(), "token=x"));
    EXPECT_EQ(response.failure, TransportFailure::kNone) << i << ": " << response.failure_message;
    EXPECT_TRUE(response.resent) << i;
  }
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

}  // namespace
}  // namespace token_refresh::test
