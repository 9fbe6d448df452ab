#include "core/jwks_cache.h"

#include <gtest/gtest.h>

#include <string>

#include "jose_keys.h"

namespace token_refresh {
namespace {

constexpr Micros kNow = 1'700'000'000 * kSecond;
const char kSource[] = "https://idp.example/jwks";

std::string Document(const std::string& kid) { return PublicJwks({EdDsa(kid).verification_key()}); }

bool Has(const JwksCache& cache, const std::string& kid, Micros now, const std::string& source = kSource) {
  const auto keys = cache.Find(source, now);
  return keys != nullptr && keys->HasKid(kid);
}

TEST(JwksCacheTest, WhatWasNeverFetchedIsWanted) {
  const JwksCache cache;
  EXPECT_EQ(cache.Find(kSource, kNow), nullptr);
  EXPECT_TRUE(cache.WantsFetch(kSource, kNow));
  EXPECT_TRUE(cache.WantsFetchForUnknownKey(kSource, kNow));
}

TEST(JwksCacheTest, FreshForAnHour) {
  JwksCache cache;
  ASSERT_TRUE(cache.Put(kSource, Document("a"), kNow));
  EXPECT_TRUE(Has(cache, "a", kNow));
  EXPECT_FALSE(cache.WantsFetch(kSource, kNow));
  EXPECT_FALSE(cache.WantsFetch(kSource, kNow + kHour - 1));
  EXPECT_TRUE(cache.WantsFetch(kSource, kNow + kHour));
  // Still used, until others are there.
  EXPECT_TRUE(Has(cache, "a", kNow + kHour));
  ASSERT_TRUE(cache.Put(kSource, Document("b"), kNow + kHour));
  EXPECT_FALSE(cache.WantsFetch(kSource, kNow + kHour));
  EXPECT_FALSE(Has(cache, "a", kNow + kHour));
  EXPECT_TRUE(Has(cache, "b", kNow + kHour));
}

TEST(JwksCacheTest, AnUnknownKeyAsksNowAndThen) {
  JwksCache cache;
  ASSERT_TRUE(cache.Put(kSource, Document("a"), kNow));
  EXPECT_FALSE(cache.WantsFetchForUnknownKey(kSource, kNow));
  EXPECT_FALSE(cache.WantsFetchForUnknownKey(kSource, kNow + JwksCache::kUnknownKeyHold - 1));
  EXPECT_TRUE(cache.WantsFetchForUnknownKey(kSource, kNow + JwksCache::kUnknownKeyHold));
  ASSERT_TRUE(cache.Put(kSource, Document("a"), kNow + JwksCache::kUnknownKeyHold));
  EXPECT_FALSE(cache.WantsFetchForUnknownKey(kSource, kNow + JwksCache::kUnknownKeyHold + 1));
}

TEST(JwksCacheTest, OldKeysServeWhileFetchesFail) {
  JwksCache cache;
  ASSERT_TRUE(cache.Put(kSource, Document("a"), kNow));
  const Micros later = kNow + 2 * kHour;
  EXPECT_TRUE(cache.WantsFetch(kSource, later));
  cache.PutFailure(kSource, later);
  EXPECT_TRUE(Has(cache, "a", later));
  EXPECT_FALSE(cache.WantsFetch(kSource, later + 10 * kSecond - 1));
  EXPECT_FALSE(cache.WantsFetchForUnknownKey(kSource, later + 10 * kSecond - 1));
  EXPECT_TRUE(cache.WantsFetch(kSource, later + 10 * kSecond));
  EXPECT_TRUE(cache.WantsFetchForUnknownKey(kSource, later + 10 * kSecond));
  EXPECT_TRUE(Has(cache, "a", kNow + kDay - 1));
  EXPECT_FALSE(Has(cache, "a", kNow + kDay));
  cache.PutFailure(kSource, kNow + kDay);
  // No keys at all: nothing is gained by waiting.
  EXPECT_TRUE(cache.WantsFetch(kSource, kNow + kDay));
  EXPECT_TRUE(cache.WantsFetchForUnknownKey(kSource, kNow + kDay));
}

TEST(JwksCacheTest, ASuccessEndsTheFailure) {
  JwksCache cache;
  ASSERT_TRUE(cache.Put(kSource, Document("a"), kNow));
  cache.PutFailure(kSource, kNow + kHour);
  ASSERT_TRUE(cache.Put(kSource, Document("a"), kNow + kHour + 1));
  EXPECT_FALSE(cache.WantsFetch(kSource, kNow + kHour + kHour));
  EXPECT_TRUE(cache.WantsFetch(kSource, kNow + kHour + kHour + 1));
}

TEST(JwksCacheTest, FailuresWithoutKeysDoNotHoldBack) {
  JwksCache cache;
  cache.PutFailure(kSource, kNow);
  EXPECT_EQ(cache.Find(kSource, kNow), nullptr);
  EXPECT_TRUE(cache.WantsFetch(kSource, kNow));
}

TEST(JwksCacheTest, AnUnusableDocumentIsAFailure) {
  JwksCache cache;
  ASSERT_TRUE(cache.Put(kSource, Document("a"), kNow));
  for (const char* document : {"", "<html>", "{}", "[]", R"({"keys":7})"}) {
    const Micros later = kNow + kHour;
    const Status put = cache.Put(kSource, document, later);
    ASSERT_FALSE(put) << document;
    EXPECT_FALSE(put.error().message.empty());
    EXPECT_TRUE(Has(cache, "a", later));
    EXPECT_FALSE(cache.WantsFetch(kSource, later + 1));
  }
}

TEST(JwksCacheTest, AClockThatIsSetBackAsksAgain) {
  JwksCache cache;
  ASSERT_TRUE(cache.Put(kSource, Document("a"), kNow));
  EXPECT_TRUE(cache.WantsFetch(kSource, kNow - kMinute));
  EXPECT_TRUE(Has(cache, "a", kNow - kMinute));
}

TEST(JwksCacheTest, KeysStayAliveForWhoeverHasThem) {
  JwksCache cache;
  ASSERT_TRUE(cache.Put(kSource, Document("a"), kNow));
  const auto keys = cache.Find(kSource, kNow);
  ASSERT_TRUE(cache.Put(kSource, Document("b"), kNow));
  EXPECT_TRUE(keys->HasKid("a"));
}

TEST(JwksCacheTest, TheOldestGivesWay) {
  JwksCache cache;
  const auto source = [](size_t i) { return "https://idp.example/" + std::to_string(i); };
  for (size_t i = 0; i < JwksCache::kMaxEntries; ++i) {
    ASSERT_TRUE(cache.Put(source(i), Document("a"), kNow + static_cast<Micros>(i)));
  }
  ASSERT_TRUE(cache.Put(source(0), Document("a"), kNow + kMinute));
  EXPECT_EQ(cache.size(), JwksCache::kMaxEntries);
  ASSERT_TRUE(cache.Put("one more", Document("a"), kNow + kMinute));
  EXPECT_EQ(cache.size(), JwksCache::kMaxEntries);
  EXPECT_EQ(cache.Find(source(1), kNow + kMinute), nullptr);
  EXPECT_NE(cache.Find(source(0), kNow + kMinute), nullptr);
  EXPECT_NE(cache.Find(source(2), kNow + kMinute), nullptr);
  EXPECT_NE(cache.Find("one more", kNow + kMinute), nullptr);
}

}  // namespace
}  // namespace token_refresh
