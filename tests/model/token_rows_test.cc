#include "worker/model/token_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace mindforge {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// [3, 4]: ids and targets that tell their place, documents of 2 tokens.
class TokenRowsTest : public ::testing::Test {
 protected:
  TokenSource Source(bool documents = false) const {
    return {
        3, 4, ids_.data(), targets_.data(), mask_.data(), documents ? documents_.data() : nullptr};
  }

  std::vector<int64_t> ids_ = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  std::vector<int64_t> targets_ = {21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32};
  std::vector<uint8_t> mask_ = {0, 2, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0};
  std::vector<int32_t> documents_ = {0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1};
};

template <typename T>
std::vector<T> Head(const std::vector<T>& all, int64_t size) {
  return {all.begin(), all.begin() + size};
}
template <typename T>
std::vector<T> Tail(const std::vector<T>& all, int64_t begin) {
  return {all.begin() + begin, all.end()};
}

TEST_F(TokenRowsTest, EndRowsBehindTheirLastTargetAndFillTheRest) {
  TokenRows rows;
  rows.SetTraining(Source(/*documents=*/true), /*trim=*/true, /*fill=*/true);
  EXPECT_THAT(rows.starts, ElementsAre(0, 2, 2, 5));
  EXPECT_EQ(rows.longest, 3);
  EXPECT_EQ(rows.tokens, 5);
  EXPECT_EQ(rows.size, TokenRows::kMultiple);
  EXPECT_EQ(rows.most, TokenRows::kMultiple);
  EXPECT_EQ(rows.counted, 3);
  EXPECT_THAT(Head(rows.ids, 5), ElementsAre(1, 2, 9, 10, 11));
  EXPECT_THAT(Head(rows.positions, 5), ElementsAre(0, 1, 0, 1, 2));
  EXPECT_THAT(Head(rows.rows, 5), ElementsAre(0, 0, 2, 2, 2));
  EXPECT_THAT(Head(rows.first_key, 5), ElementsAre(0, 0, 0, 0, 2));
  EXPECT_THAT(rows.ids, SizeIs(rows.size));
  EXPECT_THAT(Tail(rows.ids, 5), Each(0));
  EXPECT_THAT(Tail(rows.positions, 5), Each(0));
  EXPECT_THAT(Tail(rows.first_key, 5), Each(0));
}

TEST_F(TokenRowsTest, TakeEveryLogitWhereALimitedListWouldBeAsLong) {
  TokenRows rows;
  rows.SetTraining(Source(), /*trim=*/false, /*fill=*/true);
  EXPECT_TRUE(rows.all_logits);
  EXPECT_EQ(rows.listed, rows.size);
  EXPECT_THAT(rows.first_key, IsEmpty());
  EXPECT_THAT(rows.logit_rows, IsEmpty());
  EXPECT_THAT(rows.logit_places, IsEmpty());
  EXPECT_EQ(Head(rows.logit_targets, 12), targets_);
  EXPECT_THAT(Head(rows.logit_mask, 12), ElementsAre(0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0));
  EXPECT_THAT(Tail(rows.logit_mask, 12), Each(0));
}

TEST_F(TokenRowsTest, ListTheRowsOfCountedTargets) {
  // 300 tokens, of which every hundredth counts.
  std::vector<int64_t> ids(300, 3), targets(300);
  std::vector<uint8_t> mask(300, 0);
  for (int64_t i = 0; i < 300; ++i) targets[i] = i;
  for (const int64_t i : {50, 150, 250}) mask[i] = 1;
  TokenRows rows;
  rows.SetTraining(Source(), /*trim=*/false, /*fill=*/true);  // what is left of it must not matter
  rows.SetTraining({2, 150, ids.data(), targets.data(), mask.data(), nullptr}, /*trim=*/false,
                   /*fill=*/true);
  EXPECT_FALSE(rows.all_logits);
  EXPECT_EQ(rows.listed, TokenRows::kMultiple);
  EXPECT_THAT(Head(rows.logit_rows, 3), ElementsAre(50, 150, 250));
  EXPECT_THAT(Tail(rows.logit_rows, 3), Each(-1));
  EXPECT_THAT(Head(rows.logit_targets, 3), ElementsAre(50, 150, 250));
  EXPECT_THAT(Head(rows.logit_mask, 3), Each(1));
  EXPECT_THAT(Tail(rows.logit_mask, 3), Each(0));
  ASSERT_THAT(rows.logit_places, SizeIs(rows.size));
  EXPECT_EQ(rows.logit_places[150], 1);
  EXPECT_EQ(std::count(rows.logit_places.begin(), rows.logit_places.end(), -1), rows.size - 3);
}

TEST_F(TokenRowsTest, EvaluateTheLastPositionsOfWholeRows) {
  TokenRows rows;
  rows.SetEvaluation(Source(), /*keep=*/2);
  EXPECT_FALSE(rows.all_logits);
  EXPECT_EQ(rows.size, 12);
  EXPECT_THAT(rows.logit_rows, ElementsAre(2, 3, 6, 7, 10, 11));
  EXPECT_EQ(rows.listed, 6);
  rows.SetEvaluation(Source(), /*keep=*/4);
  EXPECT_TRUE(rows.all_logits);
  EXPECT_EQ(rows.listed, 12);
}

}  // namespace
}  // namespace mindforge
