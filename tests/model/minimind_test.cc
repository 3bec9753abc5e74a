// The model against golden tensors of the Python reference, and its backends against each other.
#include "worker/model/minimind.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "tests/model/golden.h"
#include "tests/model/tiny.h"
#include "worker/model/aten_minimind.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

const c10::Device kCpu(c10::kCPU);

using tiny::Compute;
using tiny::LossAndGradient;
using tiny::Make;
using tiny::RandomMicrobatch;

ModelConfig TinyConfig() { return tiny::Config(); }

class GoldenLogits : public ::testing::TestWithParam<std::tuple<std::string, AttentionPath>> {};

TEST_P(GoldenLogits, AreWithinTwentyMillionths) {
  const auto& [name, path] = GetParam();
  const auto tensors = golden::Tensors(name);
  const ModelConfig config = golden::Config(name);
  const auto model = Make(config, {ComputeDtype::kFloat32, path});
  golden::Load(tensors, "weights.", *model);
  const auto logits = model->Logits(tensors.at("input_ids"));
  ASSERT_TRUE(logits.ok()) << logits.status();
  EXPECT_LT(golden::LargestDifference(*logits, tensors.at("logits")), 2e-5);

  const auto aten = MakeAtenMinimind(config, kCpu, {ComputeDtype::kFloat32, path});
  golden::Load(tensors, "weights.", *aten);
  EXPECT_LT(golden::LargestDifference(*aten->Logits(tensors.at("input_ids")), tensors.at("logits")),
            2e-5);
}

INSTANTIATE_TEST_SUITE_P(
    All, GoldenLogits,
    ::testing::Combine(::testing::Values("dense", "yarn", "yarn_minimind", "dense3"),
                       ::testing::Values(AttentionPath::kFused, AttentionPath::kPlain)));

TEST(Minimind, ContinuesGreedilyAsTheReference) {
  const auto tensors = golden::Tensors("greedy");
  const auto model = Make(golden::Config("greedy"));
  golden::Load(tensors, "weights.", *model);
  at::Tensor ids = tensors.at("prompt").view({1, -1});
  const at::Tensor expected = tensors.at("greedy").view({-1});
  for (int64_t step = 0; step < expected.numel(); ++step) {
    const at::Tensor logits = model->Logits(ids, {}, 1).value().view({1, -1});
    EXPECT_LT(golden::LargestDifference(logits[0], tensors.at("step_logits")[0][step]), 2e-5);
    const at::Tensor next = logits.argmax(-1, /*keepdim=*/true);
    ASSERT_EQ(next.item<int64_t>(), expected[step].item<int64_t>()) << "step " << step;
    ids = at::cat({ids, next}, 1).contiguous();
  }
}

TEST(Minimind, BothBackendsAndAttentionPathsGiveTheSameGradient) {
  const ModelConfig config = TinyConfig();
  Microbatch m = RandomMicrobatch(config, 3, 70, 1);
  m.mask.narrow(1, 50, 20).zero_();  // rows of different useful lengths, and gaps between
  m.mask[1].narrow(0, 20, 50).zero_();
  m.mask[2].copy_((at::arange(70) % 3 == 0).to(at::kByte));
  m.document_ids = at::arange(70, at::kInt).div(23, "trunc").to(at::kInt).expand({3, 70});
  m.document_ids = m.document_ids.contiguous();
  const auto fused = Make(config);
  const auto plain = Make(config, {ComputeDtype::kFloat32, AttentionPath::kPlain});
  const auto aten = MakeAtenMinimind(config, kCpu, {});
  for (Minimind* model : {fused.get(), plain.get(), aten.get()}) model->InitializeWeights(5);
  const LossAndGradient a = Compute(*fused, m);
  for (Minimind* model : {plain.get(), aten.get()}) {
    const LossAndGradient b = Compute(*model, m);
    EXPECT_NEAR(a.loss, b.loss, 1e-6 * a.loss);
    EXPECT_LT(golden::LargestDifference(a.gradient, b.gradient), 2e-6);
  }
}

TEST(Minimind, GradientAgreesWithFiniteDifferences) {
  ModelConfig config = TinyConfig();
  config.tie_word_embeddings = false;
  const auto model = Make(config);
  model->InitializeWeights(3);
  const Microbatch m = RandomMicrobatch(config, 2, 33, 2);
  const LossAndGradient at_point = Compute(*model, m);
  for (const ParameterView& view : model->parameters()) {
    const at::Tensor gradient = at_point.gradient.narrow(0, view.offset, view.size);
    // Along the gradient itself the loss changes by step · |gradient|.
    const double norm = gradient.norm().item<double>();
    ASSERT_GT(norm, 0) << view.name;
    const double step = 1e-2;
    const at::Tensor direction = (gradient / norm).view(view.shape);
    const at::Tensor before = model->Parameter(view).clone();
    model->Parameter(view).add_(direction, step);
    model->ParametersChanged();
    const double up = Compute(*model, m).loss;
    model->Parameter(view).copy_(before).sub_(direction, step);
    model->ParametersChanged();
    const double down = Compute(*model, m).loss;
    model->Parameter(view).copy_(before);
    EXPECT_NEAR((up - down) / (2 * step), norm, 0.01 * norm + 2e-5) << view.name;
  }
}

TEST(Minimind, BfloatGradientPointsTheSameWay) {
  const ModelConfig config = TinyConfig();
  const Microbatch m = RandomMicrobatch(config, 2, 100, 4);
  const auto exact = Make(config);
  exact->InitializeWeights(9);
  const LossAndGradient a = Compute(*exact, m);
  for (const AttentionPath path : {AttentionPath::kFused, AttentionPath::kPlain}) {
    const auto rounded = Make(config, {ComputeDtype::kBfloat16, path});
    rounded->InitializeWeights(9);
    const LossAndGradient b = Compute(*rounded, m);
    EXPECT_NEAR(a.loss, b.loss, 0.01);
    const double cosine = (a.gradient * b.gradient).sum().item<double>() /
                          (a.gradient.norm() * b.gradient.norm()).item<double>();
    EXPECT_GT(cosine, 0.999);
    EXPECT_NEAR(b.gradient.norm().item<double>() / a.gradient.norm().item<double>(), 1, 0.01);
  }
}

TEST(Minimind, DocumentsDoNotSeeEachOther) {
  const ModelConfig config = TinyConfig();
  const auto model = Make(config);
  model->InitializeWeights(5);
  Microbatch packed = RandomMicrobatch(config, 1, 90, 6);
  packed.document_ids = at::zeros({1, 90}, at::kInt);
  packed.document_ids.narrow(1, 40, 50).fill_(1);
  packed.mask.narrow(1, 0, 40).zero_();
  const LossAndGradient together = Compute(*model, packed);
  Microbatch alone;
  alone.input_ids = packed.input_ids.narrow(1, 40, 50).contiguous();
  alone.targets = packed.targets.narrow(1, 40, 50).contiguous();
  alone.mask = at::ones({1, 50}, at::kByte);
  const LossAndGradient single = Compute(*model, alone);
  EXPECT_NEAR(together.loss, single.loss, 1e-5);
  EXPECT_LT(golden::LargestDifference(together.gradient, single.gradient), 1e-5);
}

TEST(Minimind, MicrobatchWithoutTargetsHasNoLossAndNoGradient) {
  const ModelConfig config = TinyConfig();
  Microbatch m = RandomMicrobatch(config, 2, 16, 7);
  m.mask.zero_();
  const auto cpu = Make(config);
  const auto aten = MakeAtenMinimind(config, kCpu, {});
  for (Minimind* model : {cpu.get(), aten.get()}) {
    model->InitializeWeights(1);
    const LossAndGradient out = Compute(*model, m);
    EXPECT_EQ(out.loss, 0);
    EXPECT_EQ(out.gradient.abs().max().item<double>(), 0);
  }
}

TEST(Minimind, RepeatsItsBitsWhateverRanBetween) {
  const ModelConfig config = TinyConfig();
  for (const ComputeDtype compute : {ComputeDtype::kFloat32, ComputeDtype::kBfloat16}) {
    const auto model = Make(config, {compute, AttentionPath::kFused});
    model->InitializeWeights(2);
    const Microbatch m = RandomMicrobatch(config, 4, 64, 8);
    const LossAndGradient first = Compute(*model, m);
    for (int64_t i = 0; i < 5; ++i) {
      Compute(*model, RandomMicrobatch(config, 1 + i % 3, 20 + 13 * i, i));
      const LossAndGradient again = Compute(*model, m);
      EXPECT_EQ(first.loss, again.loss);
      ASSERT_TRUE(first.gradient.equal(again.gradient));
    }
  }
}

TEST(Minimind, HasTheSameBitsOnAnyNumberOfThreads) {
  const ModelConfig config = TinyConfig();
  const Microbatch m = RandomMicrobatch(config, 5, 90, 8);
  const int before = at::get_num_threads();
  for (const ComputeDtype compute : {ComputeDtype::kFloat32, ComputeDtype::kBfloat16}) {
    const auto model = Make(config, {compute, AttentionPath::kFused});
    model->InitializeWeights(2);
    at::set_num_threads(1);
    const LossAndGradient alone = Compute(*model, m);
    for (const int threads : {2, 3}) {
      at::set_num_threads(threads);
      const LossAndGradient together = Compute(*model, m);
      EXPECT_EQ(alone.loss, together.loss) << threads << " threads";
      EXPECT_TRUE(alone.gradient.equal(together.gradient)) << threads << " threads";
    }
  }
  at::set_num_threads(before);
}

TEST(Minimind, PaddedKeysChangeNothingForTheOthers) {
  const ModelConfig config = TinyConfig();
  const at::Tensor ids = RandomMicrobatch(config, 2, 40, 3).input_ids;
  const at::Tensor padded = at::cat({at::zeros({2, 7}, at::kLong), ids}, 1).contiguous();
  at::Tensor mask = at::ones({2, 47}, at::kByte);
  mask.narrow(1, 0, 7).zero_();
  for (const AttentionPath path : {AttentionPath::kFused, AttentionPath::kPlain}) {
    const auto model = Make(config, {ComputeDtype::kFloat32, path});
    model->InitializeWeights(2);
    const at::Tensor expected = model->Logits(ids, {}, 5).value();
    EXPECT_LT(golden::LargestDifference(model->Logits(padded, mask, 5).value(), expected), 1e-5);
  }
}

TEST(Minimind, StartsFromPyTorchsDistributions) {
  ModelConfig config = TinyConfig();
  const auto model = Make(config);
  model->InitializeWeights(42);
  for (const ParameterView& view : model->parameters()) {
    const at::Tensor w = model->Parameter(view);
    if (view.shape.size() == 1) {
      EXPECT_TRUE((w == 1).all().item<bool>()) << view.name;
      continue;
    }
    const double bound = 1 / std::sqrt(static_cast<double>(view.shape[1]));
    EXPECT_LE(w.abs().max().item<double>(), bound * 1.0001) << view.name;
    EXPECT_NEAR(w.std().item<double>(), bound / std::sqrt(3.0), 0.05 * bound) << view.name;
    EXPECT_NEAR(w.mean().item<double>(), 0, 0.05 * bound) << view.name;
  }
  const at::Tensor before = model->flat_parameters().clone();
  model->InitializeWeights(42);
  EXPECT_TRUE(before.equal(model->flat_parameters()));
  model->InitializeWeights(43);
  EXPECT_FALSE(before.equal(model->flat_parameters()));
}

TEST(Minimind, RefusesWhatItCannotTrain) {
  ModelConfig odd = TinyConfig();
  odd.num_key_value_heads = 3;
  auto refused = Minimind::Create(odd, kCpu, {});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.status().message(), HasSubstr("num_key_value_heads"));
  ModelConfig oblong = TinyConfig();
  oblong.head_dim = 10;
  refused = Minimind::Create(oblong, kCpu, {.lora_rank = 4});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.status().message(), HasSubstr("no square projection"));
}

TEST(Minimind, NamesTheTokenOutsideTheVocabulary) {
  const ModelConfig config = TinyConfig();
  const auto model = Make(config);
  Microbatch m = RandomMicrobatch(config, 2, 16, 7);
  m.targets[1][3] = 100;
  const at::Tensor gradient = at::empty({model->parameter_count()});
  const auto loss = model->ForwardBackward(m, gradient);
  EXPECT_EQ(loss.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(loss.status().message(), HasSubstr("token id 100 at row 1, position 3"));
  const auto logits = model->Logits(at::zeros({1, 257}, at::kLong));
  EXPECT_THAT(logits.status().message(), HasSubstr("max_position_embeddings"));
}

}  // namespace
}  // namespace mindforge
