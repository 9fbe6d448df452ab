#include "core/http_calls.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "answering_transport.h"

namespace token_refresh {
namespace {

class HttpCallsTest : public testing::Test {
 protected:
  void Call(HttpCalls& calls, const std::string& url) {
    HttpRequest request;
    request.url = url;
    calls.Call(std::move(request), [this, url](const HttpResponse& response) {
      const bool failed = response.failure != TransportFailure::kNone;
      told_.push_back(url + ": " + (failed ? response.failure_message : std::to_string(response.status)));
    });
  }

  AnsweringTransport transport_;
  std::vector<std::string> told_;
};

TEST_F(HttpCallsTest, TheContinuationRunsOnceWithItsAnswer) {
  HttpCalls calls(transport_, 10);
  Call(calls, "a");
  Call(calls, "b");
  calls.Turn();
  EXPECT_TRUE(told_.empty());
  ASSERT_TRUE(transport_.Answer("b", 204, ""));
  EXPECT_TRUE(told_.empty());
  calls.Turn();
  EXPECT_EQ(told_, (std::vector<std::string>{"b: 204"}));
  EXPECT_EQ(calls.in_flight(), 1u);
  ASSERT_TRUE(transport_.Answer("a", 200, ""));
  calls.Turn();
  calls.Turn();
  EXPECT_EQ(told_, (std::vector<std::string>{"b: 204", "a: 200"}));
  EXPECT_EQ(calls.in_flight(), 0u);
}

TEST_F(HttpCallsTest, OnlySoManyAreUnderWay) {
  HttpCalls calls(transport_, 2);
  for (const char* url : {"a", "b", "c", "d"}) Call(calls, url);
  EXPECT_EQ(transport_.urls, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(calls.in_flight(), 4u);
  ASSERT_TRUE(transport_.Answer("b", 200, ""));
  calls.Turn();
  EXPECT_EQ(transport_.urls, (std::vector<std::string>{"a", "b", "c"}));
  ASSERT_TRUE(transport_.Answer("a", 200, ""));
  ASSERT_TRUE(transport_.Answer("c", 200, ""));
  calls.Turn();
  ASSERT_TRUE(transport_.Answer("d", 200, ""));
  calls.Turn();
  EXPECT_EQ(told_, (std::vector<std::string>{"b: 200", "a: 200", "c: 200", "d: 200"}));
  EXPECT_EQ(calls.in_flight(), 0u);
}

TEST_F(HttpCallsTest, NoneAtATimeIsOneAtATime) {
  HttpCalls calls(transport_, 0);
  Call(calls, "a");
  Call(calls, "b");
  EXPECT_EQ(transport_.urls, (std::vector<std::string>{"a"}));
}

TEST_F(HttpCallsTest, AContinuationMayCall) {
  HttpCalls calls(transport_, 1);
  HttpRequest first;
  first.url = "first";
  calls.Call(std::move(first), [&](const HttpResponse&) { Call(calls, "second"); });
  ASSERT_TRUE(transport_.Answer("first", 200, ""));
  calls.Turn();
  ASSERT_TRUE(transport_.Answer("second", 201, ""));
  calls.Turn();
  EXPECT_EQ(told_, (std::vector<std::string>{"second: 201"}));
}

TEST_F(HttpCallsTest, QueuedOnesCanBeRefused) {
  HttpCalls calls(transport_, 1);
  for (const char* url : {"a", "b", "c"}) Call(calls, url);
  calls.RefuseQueued("stopping");
  EXPECT_TRUE(told_.empty());
  EXPECT_EQ(calls.in_flight(), 3u);
  calls.Turn();
  EXPECT_EQ(told_, (std::vector<std::string>{"b: stopping", "c: stopping"}));
  ASSERT_TRUE(transport_.Answer("a", 200, ""));
  calls.Turn();
  EXPECT_EQ(told_.back(), "a: 200");
  EXPECT_EQ(transport_.urls, (std::vector<std::string>{"a"}));
  EXPECT_EQ(calls.in_flight(), 0u);
}

TEST_F(HttpCallsTest, AnAnswerThatNobodyAskedForIsIgnored) {
  HttpCalls calls(transport_, 1);
  HttpRequest foreign;
  foreign.url = "foreign";
  transport_.Submit(99, std::move(foreign));
  ASSERT_TRUE(transport_.Answer("foreign", 200, ""));
  calls.Turn();
  EXPECT_TRUE(told_.empty());
}

}  // namespace
}  // namespace token_refresh
