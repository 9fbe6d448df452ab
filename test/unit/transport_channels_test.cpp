#include "core/transport_channels.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "answering_transport.h"

namespace token_refresh {
namespace {

HttpRequest RequestTo(std::string url) {
  HttpRequest request;
  request.url = std::move(url);
  return request;
}

TEST(TransportChannelsTest, EachHasIdsOfItsOwn) {
  AnsweringTransport base;
  TransportChannels channels(base, 2);
  channels.channel(0).Submit(7, RequestTo("a"));
  channels.channel(1).Submit(7, RequestTo("b"));
  ASSERT_TRUE(base.Answer("b", 200, "for b"));
  ASSERT_TRUE(base.Answer("a", 200, "for a"));

  const std::vector<HttpCompletion> first = channels.channel(0).Collect();
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0].id, 7u);
  EXPECT_EQ(first[0].response.body.view(), "for a");
  const std::vector<HttpCompletion> second = channels.channel(1).Collect();
  ASSERT_EQ(second.size(), 1u);
  EXPECT_EQ(second[0].id, 7u);
  EXPECT_EQ(second[0].response.body.view(), "for b");
}

TEST(TransportChannelsTest, KeepsWhatIsForTheOthers) {
  AnsweringTransport base;
  TransportChannels channels(base, 3);
  channels.channel(2).Submit(1, RequestTo("a"));
  channels.channel(2).Submit(2, RequestTo("b"));
  EXPECT_FALSE(channels.has_waiting());
  ASSERT_TRUE(base.Answer("a", 200, ""));
  EXPECT_TRUE(channels.channel(0).Collect().empty());
  EXPECT_TRUE(channels.has_waiting());
  ASSERT_TRUE(base.Answer("b", 200, ""));
  EXPECT_TRUE(channels.channel(1).Collect().empty());

  const std::vector<HttpCompletion> collected = channels.channel(2).Collect();
  ASSERT_EQ(collected.size(), 2u);
  EXPECT_EQ(collected[0].id, 1u);
  EXPECT_EQ(collected[1].id, 2u);
  EXPECT_FALSE(channels.has_waiting());
  EXPECT_TRUE(channels.channel(2).Collect().empty());
}

TEST(TransportChannelsTest, EachCountsItsOwn) {
  AnsweringTransport base;
  TransportChannels channels(base, 2);
  HttpTransport& one = channels.channel(0);
  HttpTransport& other = channels.channel(1);
  one.Submit(1, RequestTo("a"));
  one.Submit(2, RequestTo("b"));
  other.Submit(1, RequestTo("c"));
  EXPECT_EQ(one.in_flight(), 2u);
  EXPECT_EQ(other.in_flight(), 1u);
  ASSERT_TRUE(base.Answer("a", 200, ""));
  (void)other.Collect();
  // It has completed, but its owner does not know yet.
  EXPECT_EQ(one.in_flight(), 2u);
  EXPECT_EQ(one.Collect().size(), 1u);
  EXPECT_EQ(one.in_flight(), 1u);
  EXPECT_EQ(other.in_flight(), 1u);
}

TEST(TransportChannelsTest, AnIdMayBeUsedAgain) {
  AnsweringTransport base;
  TransportChannels channels(base, 1);
  for (const char* answer : {"first", "second"}) {
    channels.channel(0).Submit(1, RequestTo("a"));
    ASSERT_TRUE(base.Answer("a", 200, answer));
    const std::vector<HttpCompletion> collected = channels.channel(0).Collect();
    ASSERT_EQ(collected.size(), 1u);
    EXPECT_EQ(collected[0].response.body.view(), answer);
  }
}

}  // namespace
}  // namespace token_refresh
