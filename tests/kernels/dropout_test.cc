// Dropout's masks: those of the scalar Philox on every instruction set, with the right statistics.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "worker/kernels/philox.h"
#include "worker/kernels/train_kernels.h"

namespace mindforge {
namespace {

DropoutSite Site(double p) {
  return {.key = 0x123456789abcdef0,
          .stream = 7 * kDropoutIndices,
          .threshold = static_cast<uint32_t>(p * 0x1p32),
          .scale = static_cast<float>(1 / (1 - p))};
}

bool Kept(const DropoutSite& site, uint64_t index, uint64_t row, uint64_t position,
          uint64_t column) {
  const uint64_t lane = column / 64 * 16 + column % 16;
  const auto bits = Philox(site.key, (site.stream + index) << 32 | lane, row << 32 | position);
  return bits[column % 64 / 16] >= site.threshold;
}

class DropoutTest : public ::testing::TestWithParam<CpuIsa> {
 protected:
  void SetUp() override {
    if (GetParam() > DetectCpuIsa()) GTEST_SKIP() << "not on this machine";
  }
};

TEST_P(DropoutTest, DrawsTheMasksOfTheScalarGenerator) {
  const int64_t n = 5, c = 150;
  const std::vector<int32_t> rows = {0, 0, 3, 3, 900}, positions = {0, 1, 0, 70, 31000};
  const std::vector<float> ones(n * c, 1.0f);
  std::vector<float> out(n * c);
  const DropoutSite site = Site(0.3);
  const auto& kernels = GetTrainKernels<float>(GetParam());
  kernels.dropout({}, n, c, {rows.data(), positions.data()}, site, 11, ones.data(), out.data());
  for (int64_t i = 0; i < n * c; ++i) {
    const bool kept = Kept(site, 11, rows[i / c], positions[i / c], i % c);
    ASSERT_EQ(out[i], kept ? site.scale : 0) << i;
  }
}

TEST_P(DropoutTest, DrawsTheSameForScores) {
  const int64_t batch = 2, heads = 3, length = 70;
  std::vector<float> out(batch * heads * length * length);
  const DropoutSite site = Site(0.5);
  GetTrainKernels<float>(GetParam()).dropout_scores({}, batch, heads, length, site, out.data());
  for (size_t i = 0; i < out.size(); ++i) {
    const size_t query = i / length;
    const bool kept =
        Kept(site, query / length % heads, query / length / heads, query % length, i % length);
    ASSERT_EQ(out[i], kept ? site.scale : 0) << i;
  }
}

TEST_P(DropoutTest, DropsAShareOfEveryRowAndColumn) {
  const int64_t n = 256, c = 512;
  std::vector<int32_t> rows(n, 2), positions(n);
  for (int64_t i = 0; i < n; ++i) positions[i] = static_cast<int32_t>(i);
  const std::vector<float> ones(n * c, 1.0f);
  std::vector<float> out(n * c);
  GetTrainKernels<float>(GetParam())
      .dropout({}, n, c, {rows.data(), positions.data()}, Site(0.1), 0, ones.data(), out.data());
  double total = 0;
  std::vector<double> of_row(n, 0), of_column(c, 0);
  for (int64_t i = 0; i < n * c; ++i) {
    of_row[i / c] += out[i] == 0;
    of_column[i % c] += out[i] == 0;
    total += out[i] == 0;
  }
  const auto deviation = [](double count) { return std::sqrt(0.1 * 0.9 * count); };
  EXPECT_NEAR(total, 0.1 * n * c, 4 * deviation(n * c));
  for (const double dropped : of_row) EXPECT_NEAR(dropped, 0.1 * c, 5 * deviation(c));
  for (const double dropped : of_column) EXPECT_NEAR(dropped, 0.1 * n, 5 * deviation(n));
}

INSTANTIATE_TEST_SUITE_P(AllIsas, DropoutTest,
                         ::testing::Values(CpuIsa::kBaseline, CpuIsa::kAvx2, CpuIsa::kAvx512,
                                           CpuIsa::kAvx512Bf16));

}  // namespace
}  // namespace mindforge
