// Routing and the moves of rows between tokens and slots, on every instruction set.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>
#include <utility>
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

class MoeKernelsTest : public ::testing::TestWithParam<CpuIsa> {
 protected:
  void SetUp() override {
    if (GetParam() > DetectCpuIsa()) GTEST_SKIP() << "not on this machine";
  }
  const TrainKernels<float>& kernels() const { return GetTrainKernels<float>(GetParam()); }
};

// A linear function of the weights that Route gives, for finite differences.
double Probe(const TrainKernels<float>& kernels, const RouterShape& shape,
             const std::vector<float>& x, const std::vector<float>& w,
             const std::vector<float>& factors, const std::vector<float>& balance) {
  std::vector<float> scores(shape.tokens * shape.experts);
  std::vector<int32_t> chosen(shape.tokens * shape.top_k);
  std::vector<float> weights(shape.tokens * shape.top_k);
  kernels.route({}, shape, x.data(), w.data(), scores.data(), chosen.data(), weights.data());
  double sum = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    sum += static_cast<double>(weights[i]) * static_cast<double>(factors[i]);
  }
  for (size_t i = 0; i < scores.size(); ++i) {
    sum += static_cast<double>(scores[i]) * static_cast<double>(balance[i % shape.experts]);
  }
  return sum;
}

TEST_P(MoeKernelsTest, RouterBackwardAgreesWithFiniteDifferences) {
  for (const auto& [top_k, normalize] :
       {std::pair{2, true}, std::pair{2, false}, std::pair{1, true}, std::pair{1, false}}) {
    const RouterShape shape{
        .tokens = 6, .hidden = 20, .experts = 5, .top_k = top_k, .normalize = normalize};
    std::vector<float> x = Random(6 * 20, 1);
    const std::vector<float> w = Random(5 * 20, 2);
    const std::vector<float> factors = Random(6 * top_k, 3);
    const std::vector<float> balance = Random(5, 4);
    std::vector<float> scores(30), weights(6 * top_k), d_logits(30), dw(100);
    std::vector<int32_t> chosen(6 * top_k), slots(6 * top_k);
    std::iota(slots.begin(), slots.end(), 0);
    const std::vector<int32_t> rows(6, 0);
    kernels().route({}, shape, x.data(), w.data(), scores.data(), chosen.data(), weights.data());
    const RouterGradient gradient{scores.data(),  chosen.data(),  weights.data(), slots.data(),
                                  factors.data(), balance.data(), rows.data()};
    kernels().route_backward({}, shape, gradient, d_logits.data());
    kernels().router_weight_gradient({}, shape, d_logits.data(), x.data(), dw.data());
    for (int64_t i = 0; i < 100; i += 7) {
      const float step = 1e-2f;
      std::vector<float> up = w, down = w;
      up[i] += step;
      down[i] -= step;
      const double slope = (Probe(kernels(), shape, x, up, factors, balance) -
                            Probe(kernels(), shape, x, down, factors, balance)) /
                           (2 * static_cast<double>(step));
      EXPECT_NEAR(dw[i], slope, 2e-3 + 2e-3 * std::abs(slope)) << i;
    }
  }
}

TEST_P(MoeKernelsTest, TiesGoToTheLowestExpert) {
  const RouterShape shape{.tokens = 1, .hidden = 4, .experts = 9, .top_k = 3, .normalize = true};
  const std::vector<float> x = {1, 1, 1, 1};
  std::vector<float> w(36, 0.5f);
  w[4 * 6] = 2;  // expert 6 alone is better
  std::vector<float> scores(9), weights(3);
  std::vector<int32_t> chosen(3);
  kernels().route({}, shape, x.data(), w.data(), scores.data(), chosen.data(), weights.data());
  EXPECT_EQ(chosen, (std::vector<int32_t>{6, 0, 1}));
  EXPECT_NEAR(weights[0] + weights[1] + weights[2], 1, 1e-6);
}

// The reference divides by the score itself: whoever is chosen weighs 1, and the router learns
// from the balance loss alone.
TEST_P(MoeKernelsTest, OneNormalizedChoiceWeighsOneAndTeachesTheRouterNothing) {
  const RouterShape shape{.tokens = 4, .hidden = 20, .experts = 5, .top_k = 1, .normalize = true};
  const std::vector<float> x = Random(80, 1), w = Random(100, 2), d_weights = Random(4, 3);
  std::vector<float> scores(20), weights(4), d_logits(20, 7.0f);
  std::vector<int32_t> chosen(4), slots = {0, 1, 2, 3};
  kernels().route({}, shape, x.data(), w.data(), scores.data(), chosen.data(), weights.data());
  EXPECT_EQ(weights, std::vector<float>(4, 1.0f));
  RouterGradient gradient{scores.data(), chosen.data(), weights.data(), slots.data(),
                          d_weights.data()};
  kernels().route_backward({}, shape, gradient, d_logits.data());
  EXPECT_EQ(d_logits, std::vector<float>(20, 0.0f));
}

TEST_P(MoeKernelsTest, RowsGoToTheirSlotsAndComeBackSummed) {
  const int64_t c = 37;
  const std::vector<float> x = Random(3 * c, 1), base = Random(3 * c, 2), router = Random(2 * c, 3);
  const std::vector<float> d_logits = Random(6, 4);
  const std::vector<int32_t> tokens = {1, -1, 0, 2, 0, 1, 2}, slots = {2, 4, 0, 5, 6, 3};
  std::vector<float> gathered(7 * c), out = base;
  RowGather gather;
  gather.slots = 7;
  gather.columns = c;
  gather.tokens = tokens.data();
  kernels().gather_rows({}, gather, x.data(), gathered.data());
  for (int64_t i = 0; i < c; ++i) EXPECT_EQ(gathered[c + i], 0);
  RowCombine<float> combine;
  combine.tokens = 3;
  combine.columns = c;
  combine.top_k = 2;
  combine.slots = slots.data();
  combine.x = gathered.data();
  combine.base = out.data();
  combine.experts = 2;
  combine.router = router.data();
  combine.d_logits = d_logits.data();
  kernels().combine_rows({}, combine, out.data());
  for (int64_t i = 0; i < 3 * c; ++i) {
    const float routed =
        d_logits[i / c * 2] * router[i % c] + d_logits[i / c * 2 + 1] * router[c + i % c];
    EXPECT_NEAR(out[i], base[i] + 2 * x[i] + routed, 1e-5);
  }
}

TEST_P(MoeKernelsTest, SwiGluScalesRowsAndGivesTheScalesGradient) {
  const int64_t n = 33, c = 21;
  const std::vector<float> gate_up = Random(n * 2 * c, 1), da = Random(n * c, 2);
  const std::vector<float> scale = Random(n, 3);
  std::vector<float> plain(n * c), scaled(n * c), again(n * c), d_scale(n);
  std::vector<float> plain_gradient = gate_up, scaled_gradient = gate_up;
  kernels().swiglu({}, n, c, nullptr, gate_up.data(), plain.data());
  kernels().swiglu({}, n, c, scale.data(), gate_up.data(), scaled.data());
  kernels().swiglu_backward({}, n, c, nullptr, da.data(), plain_gradient.data(), again.data(),
                            nullptr);
  kernels().swiglu_backward({}, n, c, scale.data(), da.data(), scaled_gradient.data(), again.data(),
                            d_scale.data());
  std::vector<float> expected(n, 0);
  for (int64_t i = 0; i < n * c; ++i) {
    EXPECT_NEAR(scaled[i], scale[i / c] * plain[i], 1e-5);
    EXPECT_NEAR(again[i], scaled[i], 1e-5);
    expected[i / c] += da[i] * plain[i];
  }
  for (int64_t i = 0; i < 2 * n * c; ++i) {
    EXPECT_NEAR(scaled_gradient[i], scale[i / (2 * c)] * plain_gradient[i], 1e-4);
  }
  for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(d_scale[i], expected[i], 1e-4);
}

INSTANTIATE_TEST_SUITE_P(AllIsas, MoeKernelsTest,
                         ::testing::Values(CpuIsa::kBaseline, CpuIsa::kAvx2, CpuIsa::kAvx512,
                                           CpuIsa::kAvx512Bf16));

}  // namespace
}  // namespace mindforge
