// The product of matrices against a plain triple loop, for every order of the operands.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "worker/kernels/train_kernels.h"

namespace mindforge {
namespace {

std::vector<float> Random(int64_t size, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> out(size);
  for (float& x : out) x = normal(generator);
  return out;
}

struct Extents {
  int64_t m, n, k;
};

void Check(const TrainKernels<float>& kernels, const Extents& e, bool a_turned, bool b_turned,
           bool accumulate) {
  const int64_t padding = 3;  // between c's rows
  ProductShape s{.m = e.m, .n = e.n, .k = e.k};
  s.a_row = a_turned ? 1 : e.k;
  s.a_column = a_turned ? e.m : 1;
  s.b_row = b_turned ? 1 : e.n;
  s.b_column = b_turned ? e.k : 1;
  s.c_row = e.n + padding;
  s.accumulate = accumulate;
  const std::vector<float> a = Random(e.m * e.k, 1), b = Random(e.k * e.n, 2);
  const std::vector<float> before = Random(e.m * s.c_row, 3);
  std::vector<float> c = before;
  std::vector<float> workspace(kernels.product_workspace(s));
  kernels.product({}, s, a.data(), b.data(), c.data(), workspace.data());
  for (int64_t i = 0; i < e.m; ++i) {
    for (int64_t j = 0; j < s.c_row; ++j) {
      const int64_t at = i * s.c_row + j;
      if (j >= e.n) {
        ASSERT_EQ(c[at], before[at]) << "outside";
        continue;
      }
      double sum = accumulate ? before[at] : 0;
      for (int64_t x = 0; x < e.k; ++x) {
        sum += static_cast<double>(a[i * s.a_row + x * s.a_column]) *
               static_cast<double>(b[x * s.b_row + j * s.b_column]);
      }
      ASSERT_NEAR(c[at], sum, 2e-5 * std::sqrt(static_cast<double>(e.k))) << i << ", " << j;
    }
  }
}

TEST(Product, OfAnyStridesIsThatOfTheLoops) {
  for (const CpuIsa isa : {CpuIsa::kBaseline, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (isa > DetectCpuIsa()) continue;
    const TrainKernels<float>& kernels = GetTrainKernels<float>(isa);
    ASSERT_NE(kernels.product, nullptr) << "whether or not the model prefers it here";
    for (const Extents& e : {Extents{1, 1, 1}, Extents{14, 32, 16}, Extents{15, 33, 257},
                             Extents{150, 70, 300}, Extents{7, 1100, 5}}) {
      for (int bits = 0; bits < 8; ++bits) {
        Check(kernels, e, (bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0);
      }
    }
  }
}

}  // namespace
}  // namespace mindforge
