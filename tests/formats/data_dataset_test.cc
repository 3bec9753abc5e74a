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

using ::testing::HasSubstr;

constexpr int64_t kEos = 2;

class DatasetTest : public testing::Test {
 protected:
  std::unique_ptr<Dataset> Open(const std::vector<std::string>& texts, int64_t length,
                                bool packing) {
    std::string jsonl;
    for (const std::string& text : texts) jsonl += nlohmann::json{{"text", text}}.dump() + "\n";
    auto dataset = Dataset::Open({.path = dir_.Write("data.jsonl", jsonl),
                                  .tokenizer_path = TestData("tokenizer"),
                                  .max_seq_len = length,
                                  .packing = packing,
                                  .cache_dir = dir_.File("cache")});
    EXPECT_TRUE(dataset.ok()) << dataset.status();
    return std::move(dataset).value();
  }

  TempDir dir_;
};

// The reference's pad mode, spelled out as its Python does it.
TEST_F(DatasetTest, PadsAndTruncatesAsTheReference) {
  const std::vector<std::string> texts = {"Hello, world! This is a longer text than fits.", "你好",
                                          "a", "end <|endoftext|> inside it"};
  const int64_t length = 8;
  const auto dataset = Open(texts, length, false);
  EXPECT_EQ(dataset->sequences(), 4);
  EXPECT_EQ(dataset->row_length(), 7);
  EXPECT_EQ(dataset->digest().size(), 16u);
  const auto rows = RowsOf(*dataset, {3, 0, 1, 2});
  for (size_t r = 0; r < 4; ++r) {
    const auto encoded = dataset->tokenizer().Encode(texts[std::vector{3, 0, 1, 2}[r]]);
    std::vector<int64_t> ids(encoded.begin(), encoded.end());
    ids.resize(length, 0);
    EXPECT_EQ(rows[r].inputs, std::vector<int64_t>(ids.begin(), ids.end() - 1));
    EXPECT_EQ(rows[r].targets, std::vector<int64_t>(ids.begin() + 1, ids.end()));
    for (int64_t t = 0; t + 1 < length; ++t) {
      EXPECT_EQ(rows[r].mask[t], ids[t + 1] != 0 ? 1.0f : 0.0f);
      EXPECT_EQ(rows[r].starts[t], 0);
    }
  }
}

TEST_F(DatasetTest, FillsWithoutDocumentStartsInPadMode) {
  const auto dataset = Open({"one two three"}, 6, false);
  std::vector<int64_t> inputs(5);
  std::vector<int64_t> targets(5);
  std::vector<float> mask(5);
  ASSERT_TRUE(
      dataset
          ->FillMicrobatch(
              {0}, {absl::MakeSpan(inputs), absl::MakeSpan(targets), absl::MakeSpan(mask), {}})
          .ok());
  EXPECT_NE(inputs[0], 0);
}

// All rows together are the stream of texts and eos; each transition inside a text counts once.
TEST_F(DatasetTest, PacksTheWholeStream) {
  std::vector<std::string> texts;
  for (int i = 0; i < 30; ++i) {
    texts.push_back("text" + std::string(i * 3 % 17, '!') + " number " + std::to_string(i));
  }
  for (const int64_t length : {2, 5, 8, 64, 1000}) {
    const auto dataset = Open(texts, length, true);
    std::vector<int64_t> stream;
    std::vector<int64_t> start;  // of the document that each token is in
    for (const std::string& text : texts) {
      const auto begin = static_cast<int64_t>(stream.size());
      for (const int32_t id : dataset->tokenizer().Encode(text)) stream.push_back(id);
      stream.push_back(kEos);
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
          EXPECT_EQ(got.inputs[t], 0);
          EXPECT_EQ(got.mask[t], 0);
          EXPECT_EQ(got.starts[t], t);
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

TEST_F(DatasetTest, NamesAnOptionThatCannotBe) {
  const auto status = [&](DatasetOptions options) {
    options.path = dir_.Write("data.jsonl", "{\"text\": \"one two\"}\n");
    if (options.tokenizer_path.empty()) options.tokenizer_path = TestData("tokenizer");
    options.cache_dir = dir_.File("cache");
    const auto dataset = Dataset::Open(options);
    EXPECT_FALSE(dataset.ok());
    return dataset.status();
  };
  EXPECT_THAT(std::string(status({.max_seq_len = 1}).message()), HasSubstr("max_seq_len"));
  EXPECT_THAT(std::string(status({.pad_id = 6400}).message()), HasSubstr("pad_token_id"));
  EXPECT_THAT(std::string(status({.eos_id = -1}).message()), HasSubstr("eos_token_id"));
  EXPECT_EQ(status({.tokenizer_path = "/no/such"}).code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace mindforge
