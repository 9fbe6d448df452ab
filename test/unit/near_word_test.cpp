#include "core/near_word.h"

#include <gtest/gtest.h>

#include <string>

namespace token_refresh {
namespace {

const std::vector<std::string_view> kWords = {"filter", "trigger", "key", "status_column", "status_values"};

TEST(NearWord, FindsWhatIsAtMostTwoEditsAway) {
  for (const std::string_view text :
       {"filter", "filer", "filterr", "fylter", "flter", "ilte", "fitler", "FILTER", "Filtre"}) {
    EXPECT_EQ(NearWord(text, kWords), "filter") << text;
  }
  EXPECT_EQ(NearWord("status_colum", kWords), "status_column");
  EXPECT_EQ(NearWord("status_value", kWords), "status_values");
  EXPECT_EQ(NearWord("k", kWords), "key");
}

TEST(NearWord, NothingWhenAllAreFurther) {
  for (const std::string_view text : {"", "fil", "filterfoo", "yek1", "status", "provider"}) {
    EXPECT_EQ(NearWord(text, kWords), std::nullopt) << text;
  }
  EXPECT_EQ(NearWord(std::string(1000000, 'k'), kWords), std::nullopt);
  EXPECT_EQ(NearWord("key", {}), std::nullopt);
}

TEST(NearWord, TheNearestWinsThenTheFirst) {
  EXPECT_EQ(NearWord("abcd", {"abxy", "abcx"}), "abcx");
  EXPECT_EQ(NearWord("abcd", {"abcx", "abcy"}), "abcx");
}

}  // namespace
}  // namespace token_refresh
