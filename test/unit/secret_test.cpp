#include "core/secret.h"

#include <gtest/gtest.h>

#include <string>
#include <type_traits>
#include <utility>

namespace token_refresh {
namespace {

template <class T>
concept Streamable = requires(std::ostream& out, const T& value) {
  out << value;
};
template <class T>
concept Comparable = requires(const T& a, const T& b) {
  a == b;
};

static_assert(!std::is_copy_constructible_v<Secret> && !std::is_copy_assignable_v<Secret>);
static_assert(std::is_nothrow_move_constructible_v<Secret> && std::is_nothrow_move_assignable_v<Secret>);
static_assert(!Streamable<Secret> && !Comparable<Secret>);
static_assert(!std::is_convertible_v<std::string_view, Secret> && !std::is_convertible_v<Secret, std::string_view>);

TEST(Secret, HoldsACopyOfTheBytes) {
  std::string source("fake\0word", 9);
  const Secret secret{std::string_view(source)};
  source.assign("overwritten");
  EXPECT_EQ(secret.view(), std::string_view("fake\0word", 9));
  EXPECT_EQ(secret.size(), 9u);
  EXPECT_FALSE(secret.empty());
}

TEST(Secret, MayBeEmpty) {
  const Secret none;
  const Secret from_empty{std::string_view()};
  EXPECT_TRUE(none.empty());
  EXPECT_TRUE(from_empty.empty());
  EXPECT_EQ(from_empty.view(), "");
  EXPECT_TRUE(from_empty.Clone().empty());
}

TEST(Secret, MovingEmptiesTheSource) {
  Secret first{std::string_view("fake-1")};
  const char* memory = first.view().data();
  Secret second(std::move(first));
  EXPECT_EQ(second.view(), "fake-1");
  EXPECT_EQ(second.view().data(), memory);
  EXPECT_TRUE(first.empty());
  EXPECT_EQ(first.view().data(), nullptr);

  Secret third{std::string_view("replaced")};
  third = std::move(second);
  EXPECT_EQ(third.view(), "fake-1");
  EXPECT_TRUE(second.empty());
}

TEST(Secret, SurvivesAMoveToItself) {
  Secret secret{std::string_view("fake-1")};
  Secret& same = secret;
  secret = std::move(same);
  EXPECT_EQ(secret.view(), "fake-1");
}

TEST(Secret, CloneIsIndependent) {
  Secret original{std::string_view("fake-1")};
  const Secret copy = original.Clone();
  original.Wipe();
  EXPECT_EQ(copy.view(), "fake-1");
}

TEST(Secret, TakeFromWipesTheSourceWhereItLay) {
  for (const size_t size : {size_t{5}, size_t{500}}) {  // inside the string object, and outside
    std::string source(size, 'x');
    const char* memory = source.data();
    const Secret secret = Secret::TakeFrom(source);
    EXPECT_EQ(secret.view(), std::string(size, 'x'));
    EXPECT_TRUE(source.empty());
    EXPECT_EQ(source.data(), memory);
    source.resize(source.capacity(), '.');  // no new memory, so memory may be read
    EXPECT_EQ(source.find('x'), std::string::npos);
  }
}

TEST(Secret, EqualsComparesContentAndLength) {
  const Secret secret{std::string_view("fake-1")};
  EXPECT_TRUE(secret.Equals("fake-1"));
  EXPECT_FALSE(secret.Equals("fake-2"));
  EXPECT_FALSE(secret.Equals("Fake-1"));
  EXPECT_FALSE(secret.Equals("fake-"));
  EXPECT_FALSE(secret.Equals("fake-11"));
  EXPECT_FALSE(secret.Equals(""));
  EXPECT_TRUE(Secret().Equals(""));
  EXPECT_FALSE(Secret().Equals("x"));
}

TEST(Secret, AppendGrows) {
  Secret secret;
  std::string expected;
  for (int i = 0; i < 300; ++i) {
    const std::string piece = std::to_string(i) + ",";
    secret.Append(piece);
    expected += piece;
    ASSERT_EQ(secret.view(), expected);
  }
  secret.Append("");
  EXPECT_EQ(secret.view(), expected);
  Secret still_empty;
  still_empty.Append("");
  EXPECT_TRUE(still_empty.empty());
}

TEST(Secret, AppendOfItselfWhetherOrNotItGrows) {
  Secret secret{std::string_view("ab")};
  for (int i = 0; i < 8; ++i) secret.Append(secret.view());
  EXPECT_EQ(secret.size(), 512u);
  EXPECT_EQ(secret.view().find("aa"), std::string_view::npos);
}

TEST(Secret, CanBeUsedAgainAfterWipe) {
  Secret secret{std::string_view("fake-1")};
  secret.Wipe();
  EXPECT_TRUE(secret.empty());
  EXPECT_EQ(secret.view().data(), nullptr);
  secret.Wipe();
  secret.Append("fake-2");
  EXPECT_EQ(secret.view(), "fake-2");
}

TEST(WipeString, WipesAlsoWhatAStringHeldBefore) {
  std::string text(400, 'x');
  text.resize(3);
  const char* memory = text.data();
  const size_t capacity = text.capacity();
  WipeString(text);
  EXPECT_TRUE(text.empty());
  ASSERT_EQ(text.data(), memory);
  ASSERT_EQ(text.capacity(), capacity);
  EXPECT_EQ(std::string_view(memory, capacity).find('x'), std::string_view::npos);
}

}  // namespace
}  // namespace token_refresh
