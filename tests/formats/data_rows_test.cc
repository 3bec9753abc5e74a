// Rows between bos and eos as MiniMind-3 lays them out, and the loss mask of conversations.
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/formats/dataset_rows.h"
#include "tests/formats/temp_dir.h"
#include "worker/data/dataset.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {
namespace {

class RowsTest : public testing::Test {
 protected:
  std::unique_ptr<Dataset> Open(const std::vector<std::string>& texts, int64_t length,
                                bool packing) {
    std::string jsonl;
    for (const std::string& text : texts) jsonl += nlohmann::json{{"text", text}}.dump() + "\n";
    auto dataset = Dataset::Open({.path = dir_.Write("data.jsonl", jsonl),
                                  .tokenizer_path = TestData("tokenizer"),
                                  .max_seq_len = length,
                                  .packing = packing,
                                  .cache_dir = dir_.File("cache"),
                                  .add_bos_eos = true});
    EXPECT_TRUE(dataset.ok()) << dataset.status();
    return std::move(dataset).value();
  }

  TempDir dir_;
};

// MiniMind-3's pretraining rows: tokens = text[:L-2]; ids = bos + tokens + eos, padded to L; the
// labels are the ids but for pads, shifted in the loss.
TEST_F(RowsTest, ATextStandsBetweenBosAndEosAsTheReferencePutsIt) {
  const std::vector<std::string> texts = {"Hello, world! This is a longer text than fits.", "你好",
                                          "a", "end <|endoftext|> inside it", "exactly fits"};
  const int64_t length = 8;
  const auto dataset = Open(texts, length, false);
  ASSERT_EQ(dataset->row_length(), length);
  ASSERT_EQ(dataset->sequences(), 5);
  for (int64_t r = 0; r < 5; ++r) {
    std::vector<int64_t> ids = {1};
    for (const int32_t id : dataset->tokenizer().Encode(texts[r])) {
      if (ids.size() < length - 1) ids.push_back(id);
    }
    ids.push_back(2);
    ids.resize(length, 0);
    const DatasetRow row = RowsOf(*dataset, {r})[0];
    EXPECT_EQ(row.inputs, ids) << texts[r];
    for (int64_t t = 0; t < length; ++t) {
      const bool counts = t + 1 < length && ids[t + 1] != 0;
      EXPECT_EQ(row.mask[t], counts ? 1.0f : 0.0f) << texts[r] << " " << t;
      if (counts) {
        EXPECT_EQ(row.targets[t], ids[t + 1]) << texts[r] << " " << t;
      }
      EXPECT_EQ(row.starts[t], 0);
    }
  }
}

TEST_F(RowsTest, PackedTextsKeepTheirBosAndEos) {
  std::vector<std::string> texts;
  for (int i = 0; i < 30; ++i) {
    texts.push_back("text" + std::string(i * 3 % 17, '!') + " number " + std::to_string(i));
  }
  for (const int64_t length : {2, 5, 8, 64, 1000}) {
    const auto dataset = Open(texts, length, true);
    std::vector<int64_t> stream, start;
    for (const std::string& text : texts) {
      const auto begin = static_cast<int64_t>(stream.size());
      stream.push_back(1);
      for (const int32_t id : dataset->tokenizer().Encode(text)) stream.push_back(id);
      stream.push_back(2);
      start.resize(stream.size(), begin);
    }
    const auto size = static_cast<int64_t>(stream.size());
    ASSERT_EQ(dataset->row_length(), length);
    ASSERT_EQ(dataset->sequences(), (size - 1 + length - 1) / length);
    double counted = 0;
    for (int64_t row = 0; row < dataset->sequences(); ++row) {
      const DatasetRow got = RowsOf(*dataset, {row})[0];
      for (int64_t t = 0; t < length; ++t) {
        const int64_t at = row * length + t;
        counted += got.mask[t];
        if (at >= size) {
          EXPECT_EQ(got.mask[t], 0);
          continue;
        }
        EXPECT_EQ(got.inputs[t], stream[at]) << length << " " << at;
        EXPECT_EQ(got.starts[t], std::max<int64_t>(start[at] - row * length, 0)) << at;
        const bool inside = at + 1 < size && start[at + 1] == start[at];
        EXPECT_EQ(got.mask[t], inside ? 1.0f : 0.0f) << length << " " << at;
        if (inside) {
          EXPECT_EQ(got.targets[t], stream[at + 1]) << length << " " << at;
        }
      }
    }
    EXPECT_EQ(counted, static_cast<double>(size) - 30);
  }
}

// The same cache serves a dataset with bos and eos and one without.
TEST_F(RowsTest, BosAndEosAreNoPartOfTheCache) {
  Open({"one two three"}, 8, false);
  auto plain = Dataset::Open({.path = dir_.File("data.jsonl"),
                              .tokenizer_path = TestData("tokenizer"),
                              .max_seq_len = 8,
                              .cache_dir = dir_.File("cache")});
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ((*plain)->row_length(), 7);
  EXPECT_NE(RowsOf(**plain, {0})[0].inputs[0], 1);
}

}  // namespace
}  // namespace mindforge
