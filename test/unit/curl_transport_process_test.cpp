// CurlTransport and the process around it: its loop, its descriptors, the threads of the resolver.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netdb.h>
#include <signal.h>

#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <mutex>

#include "curl_transport_fixture.h"

namespace token_refresh::test {
namespace {

using testing::HasSubstr;

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
