// Six optimizer steps against the Python reference, and the optimizer's own promises.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <tuple>

#include "tests/model/golden_training.h"
#include "worker/model/adamw.h"
#include "worker/model/aten_minimind.h"
#include "worker/model/schedule.h"

namespace mindforge {
namespace {

const c10::Device kCpu(c10::kCPU);

class GoldenTraining : public ::testing::TestWithParam<std::tuple<std::string, AttentionPath>> {};

TEST_P(GoldenTraining, SixStepsAsTheReference) {
  const auto& [name, path] = GetParam();
  const MinimindOptions options{ComputeDtype::kFloat32, path};
  golden::ExpectTraining(name, *Minimind::Create(golden::Config(name), kCpu, options).value());
}

INSTANTIATE_TEST_SUITE_P(
    All, GoldenTraining,
    ::testing::Combine(::testing::Values("train_dense", "train_moe", "train_dense3", "train_moe3"),
                       ::testing::Values(AttentionPath::kFused, AttentionPath::kPlain)));

TEST(Training, SixStepsAsTheReferenceComposed) {
  for (const char* name : {"train_dense", "train_moe", "train_dense3", "train_moe3"}) {
    SCOPED_TRACE(name);
    golden::ExpectTraining(name, *MakeAtenMinimind(golden::Config(name), kCpu, {}));
  }
}

TEST(AdamW, LeavesEverythingAloneWhenTheGradientIsNotFinite) {
  AdamW optimizer(100, kCpu, {});
  const at::Tensor parameters = at::ones({100});
  at::Tensor gradient = at::ones({100});
  gradient[50] = std::numeric_limits<float>::quiet_NaN();
  const AdamWResult result = optimizer.Step({1, 0.1, 1.0}, gradient, parameters, {});
  EXPECT_FALSE(result.applied);
  EXPECT_TRUE((parameters == 1).all().item<bool>());
  EXPECT_EQ(optimizer.first_moment().abs().max().item<float>(), 0);
}

TEST(AdamW, UpdatesARangeAndItsFloat16Copy) {
  const at::Tensor start = at::randn({100});
  const at::Tensor gradient = at::randn({30});
  const at::Tensor parameters = start.clone();
  const at::Tensor copy = start.to(at::kHalf);
  AdamW(30, kCpu, {})
      .Step({1, 0.1, 1.0}, gradient, parameters.narrow(0, 70, 30), copy.narrow(0, 70, 30));
  const at::Tensor alone = start.narrow(0, 70, 30).clone();
  AdamW(30, kCpu, {}).Step({1, 0.1, 1.0}, gradient, alone, {});
  EXPECT_TRUE(parameters.narrow(0, 0, 70).equal(start.narrow(0, 0, 70)));
  EXPECT_TRUE(parameters.narrow(0, 70, 30).equal(alone));
  EXPECT_TRUE(copy.equal(parameters.to(at::kHalf)));
}

TEST(AdamW, WritesTheBfloatCopyAndHasTheSameBitsOnAnyNumberOfThreads) {
  const int64_t size = 100'003;
  const at::Tensor start = at::randn({size});
  const at::Tensor gradient = at::randn({size});
  at::Tensor first;
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    AdamW optimizer(size, kCpu, {});
    const at::Tensor parameters = start.clone();
    const at::Tensor copy = at::empty({size}, at::kBFloat16);
    const AdamWResult result = optimizer.Step({1, 0.1, 0.5}, gradient, parameters, copy);
    EXPECT_NEAR(result.gradient_norm, 0.5 * gradient.norm().item<double>(), 1e-2);
    EXPECT_TRUE(copy.equal(parameters.to(at::kBFloat16)));
    if (!first.defined()) first = parameters;
    EXPECT_TRUE(first.equal(parameters)) << threads << " threads";
  }
  at::set_num_threads(2);
}

TEST(Schedule, GoesFromJustUnderElevenTenthsToATenth) {
  EXPECT_NEAR(CosineLearningRate(1.0, 1, 1000), 1.1, 1e-5);
  EXPECT_LT(CosineLearningRate(1.0, 1, 1000), 1.1);
  EXPECT_DOUBLE_EQ(CosineLearningRate(1.0, 500, 1000), 0.6);
  EXPECT_DOUBLE_EQ(CosineLearningRate(1.0, 1000, 1000), 0.1);
  EXPECT_EQ(LearningRate(Schedule::kCosine, 1.0, 7, 1000), CosineLearningRate(1.0, 7, 1000));
  EXPECT_NEAR(LearningRate(Schedule::kCosineFromLr, 1.0, 1, 1000), 1.0, 1e-5);
  EXPECT_LT(LearningRate(Schedule::kCosineFromLr, 1.0, 1, 1000), 1.0);
  EXPECT_DOUBLE_EQ(LearningRate(Schedule::kCosineFromLr, 1.0, 500, 1000), 0.55);
  EXPECT_DOUBLE_EQ(LearningRate(Schedule::kCosineFromLr, 1.0, 1000, 1000), 0.1);
}

}  // namespace
}  // namespace mindforge
