#include "worker/serve/stop_strings.h"

#include "gtest/gtest.h"

namespace mindforge {
namespace {

// What comes out of `matcher` for each piece, then for the end.
std::vector<std::string> Feed(StopStringMatcher& matcher, const std::vector<std::string>& pieces) {
  std::vector<std::string> out;
  for (const std::string& piece : pieces) out.push_back(matcher.Push(piece));
  out.push_back(matcher.Flush());
  return out;
}

TEST(StopStrings, LetsEverythingThroughWithoutStops) {
  StopStringMatcher matcher({});
  EXPECT_EQ(Feed(matcher, {"a", "b"}), (std::vector<std::string>{"a", "b", ""}));
}

TEST(StopStrings, HoldsBackWhatMayBeAStopStringAndReleasesItWhenItIsNot) {
  StopStringMatcher matcher({"STOP"});
  EXPECT_EQ(Feed(matcher, {"go ST", "O", "NE"}),
            (std::vector<std::string>{"go ", "", "STONE", ""}));
  EXPECT_FALSE(matcher.matched());
}

TEST(StopStrings, CutsBeforeAStopStringThatComesInPieces) {
  StopStringMatcher matcher({"STOP"});
  EXPECT_EQ(Feed(matcher, {"go S", "T", "O", "P and on", "more"}),
            (std::vector<std::string>{"go ", "", "", "", "", ""}));
  EXPECT_TRUE(matcher.matched());
}

TEST(StopStrings, TakesTheEarliestOfSeveral) {
  StopStringMatcher matcher({"later", "now"});
  EXPECT_EQ(matcher.Push("it is now or later"), "it is ");
  EXPECT_TRUE(matcher.matched());
}

TEST(StopStrings, ReleasesAnUnfinishedStopStringAtTheEnd) {
  StopStringMatcher matcher({"END"});
  EXPECT_EQ(Feed(matcher, {"the EN"}), (std::vector<std::string>{"the ", "EN"}));
}

TEST(StopStrings, FindsAStopStringBehindAFalseStart) {
  StopStringMatcher matcher({"aab"});
  EXPECT_EQ(Feed(matcher, {"a", "a", "a", "b"}), (std::vector<std::string>{"", "", "a", "", ""}));
  EXPECT_TRUE(matcher.matched());
}

TEST(StopStrings, KeepsCharactersWhole) {
  StopStringMatcher matcher({"\xC3\xA9"});  // é, whose first byte è shares
  EXPECT_EQ(matcher.Push("\xC3\xA8"), "\xC3\xA8");
  EXPECT_EQ(matcher.Push("x\xC3\xA9y"), "x");
}

}  // namespace
}  // namespace mindforge
