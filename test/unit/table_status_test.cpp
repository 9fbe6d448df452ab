#include "core/table_status.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>

namespace token_refresh {
namespace {

TEST(TableStatus, WithoutValuesTheWordsAreTheTexts) {
  for (const std::string_view word : StatusWords()) {
    EXPECT_EQ(StatusForTable({}, word), word);
    EXPECT_EQ(StatusFromTable({}, word), word);
  }
}

TEST(TableStatus, WithValuesTheyAreTranslated) {
  const StatusValues values = {{"connected", "ACTIVE"}, {"needs_reauth", "revoked"}, {"error", "disconnected"}};
  EXPECT_EQ(StatusForTable(values, "connected"), "ACTIVE");
  EXPECT_EQ(StatusForTable(values, "needs_reauth"), "revoked");
  EXPECT_EQ(StatusForTable(values, "error"), "disconnected");
  EXPECT_EQ(StatusFromTable(values, "ACTIVE"), "connected");
  EXPECT_EQ(StatusFromTable(values, "revoked"), "needs_reauth");
  // Also when it is another of our words.
  EXPECT_EQ(StatusFromTable(values, "disconnected"), "error");
}

TEST(TableStatus, AWordWithoutATextIsNotWritten) {
  const StatusValues values = {{"connected", "active"}};
  for (const std::string_view word : {"token_expired", "needs_reauth", "error", "disconnected"}) {
    EXPECT_EQ(StatusForTable(values, word), std::nullopt) << word;
  }
}

TEST(TableStatus, AnUnknownTextIsConnected) {
  const StatusValues values = {{"connected", "active"}, {"needs_reauth", "revoked"}};
  for (const std::string_view text : {"", "pending", "Revoked", "revoked ", "needs_reauth", "error"}) {
    EXPECT_EQ(StatusFromTable(values, text), "connected") << text;
  }
  for (const std::string_view text : {"", "expired", "Error", "error "}) {
    EXPECT_EQ(StatusFromTable({}, text), "connected") << text;
  }
  // Even when "connected" itself has no text.
  EXPECT_EQ(StatusFromTable({{"error", "broken"}}, "fine"), "connected");
}

}  // namespace
}  // namespace token_refresh
