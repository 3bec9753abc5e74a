// A dataset's rows as plain vectors, for tests that compare them with what they should be.
#pragma once

#include <cstdint>
#include <vector>

#include "common/check.h"
#include "worker/data/dataset.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {

struct DatasetRow {
  std::vector<int64_t> inputs;
  std::vector<int64_t> targets;
  std::vector<float> mask;
  std::vector<int32_t> starts;
};

inline std::vector<DatasetRow> RowsOf(const Dataset& dataset,
                                      const std::vector<int64_t>& sequences) {
  const size_t length = dataset.row_length();
  const size_t size = sequences.size() * length;
  std::vector<int64_t> inputs(size, -1);
  std::vector<int64_t> targets(size, -1);
  std::vector<float> mask(size, -1);
  std::vector<int32_t> starts(size, -1);
  const absl::Status filled =
      dataset.FillMicrobatch(sequences, {absl::MakeSpan(inputs), absl::MakeSpan(targets),
                                         absl::MakeSpan(mask), absl::MakeSpan(starts)});
  MF_CHECK(filled.ok()) << filled.message();
  std::vector<DatasetRow> rows;
  for (size_t r = 0; r < sequences.size(); ++r) {
    const size_t begin = r * length;
    const auto cut = [&](const auto& all) {
      return std::vector(all.begin() + begin, all.begin() + begin + length);
    };
    rows.push_back({cut(inputs), cut(targets), cut(mask), cut(starts)});
  }
  return rows;
}

}  // namespace mindforge
