// What CurlTransport refuses before anything is sent: addresses, protocols, requests that are none.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "curl_transport_fixture.h"

namespace token_refresh::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

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

}  // namespace
}  // namespace token_refresh::test
