// Six optimizer steps against the Python reference, and the optimizer's own promises.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <tuple>

#include "tests/model/golden.h"
#include "worker/model/adamw.h"
#include "worker/model/aten_minimind.h"
#include "worker/model/schedule.h"

namespace mindforge {
namespace {

const c10::Device kCpu(c10::kCPU);

Microbatch GoldenMicrobatch(const at::Tensor& rows, int64_t pad) {  // int64 [B, L + 1]
  Microbatch m;
  m.input_ids = rows.narrow(1, 0, rows.size(1) - 1).contiguous();
  m.targets = rows.narrow(1, 1, rows.size(1) - 1).contiguous();
  m.mask = (m.targets != pad).to(at::kByte);
  return m;
}

void ExpectGoldenTraining(const std::string& name, Minimind& model) {
  const auto tensors = golden::Tensors(name);
  const auto index = golden::Index().at(name);
  const int64_t accumulation = index.at("accumulation");
  const int64_t microbatch = index.at("microbatch");
  const double base = index.at("learning_rate");
  const int64_t steps = tensors.at("losses").numel();
  golden::Load(tensors, "weights.", model);
  AdamW optimizer(model.parameter_count(), kCpu, {});
  at::Tensor sum = at::empty({model.parameter_count()});
  at::Tensor gradient = at::empty({model.parameter_count()});
  for (int64_t s = 0; s < steps; ++s) {
    double loss = 0;
    sum.zero_();
    for (int64_t i = 0; i < accumulation; ++i) {
      const int64_t at = (s * accumulation + i) * microbatch;
      loss += model
                  .ForwardBackward(GoldenMicrobatch(tensors.at("tokens").narrow(0, at, microbatch),
                                                    index.at("pad_token_id")),
                                   gradient)
                  .value()
                  .item<double>() /
              static_cast<double>(accumulation);
      sum.add_(gradient);
    }
    AdamWStep step;
    step.step = s + 1;
    step.learning_rate = CosineLearningRate(base, s + 1, steps);
    step.gradient_scale = 1.0 / static_cast<double>(accumulation);
    EXPECT_NEAR(step.learning_rate, tensors.at("lrs")[s].item<double>(), 1e-12);
    const AdamWResult result =
        optimizer.Step(step, sum, model.flat_parameters(), model.compute_parameters());
    const double expected_loss = tensors.at("losses")[s].item<double>();
    const double expected_norm = tensors.at("grad_norms")[s].item<double>();
    EXPECT_NEAR(loss, expected_loss, 1e-5 * expected_loss) << "step " << s;
    EXPECT_NEAR(result.gradient_norm, expected_norm, 1e-5 * expected_norm) << "step " << s;
  }
  int64_t far = 0;
  for (const ParameterView& view : model.parameters()) {
    const at::Tensor difference = (model.Parameter(view) - tensors.at("final." + view.name)).abs();
    EXPECT_LT(difference.max().item<double>(), 2e-4) << view.name;
    far += (difference > 1e-6).sum().item<int64_t>();
  }
  EXPECT_LT(static_cast<double>(far), 0.001 * static_cast<double>(model.parameter_count()));
}

class GoldenTraining : public ::testing::TestWithParam<std::tuple<std::string, AttentionPath>> {};

TEST_P(GoldenTraining, SixStepsAsTheReference) {
  const auto& [name, path] = GetParam();
  const MinimindOptions options{ComputeDtype::kFloat32, path};
  ExpectGoldenTraining(name, *Minimind::Create(golden::Config(name), kCpu, options).value());
}

INSTANTIATE_TEST_SUITE_P(All, GoldenTraining,
                         ::testing::Combine(::testing::Values("train_dense", "train_moe"),
                                            ::testing::Values(AttentionPath::kFused,
                                                              AttentionPath::kPlain)));

TEST(Training, SixStepsAsTheReferenceComposed) {
  ExpectGoldenTraining("train_dense", *MakeAtenMinimind(golden::Config("train_dense"), kCpu, {}));
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
}

}  // namespace
}  // namespace mindforge
