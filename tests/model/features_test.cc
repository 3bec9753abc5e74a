// What goes beyond the plain dense model on the CPU: qk_norm, head_dim of its own, mixture of
// experts, dropout, adapters; each forward against its golden tensors or itself, each backward
// against finite differences.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <ostream>
#include <string>
#include <tuple>
#include <utility>

#include "common/training_numerics.h"
#include "tests/model/golden.h"
#include "tests/model/tiny.h"
#include "worker/model/aten_minimind.h"

namespace mindforge {
namespace {

using tiny::Compute;
using tiny::LossAndGradient;
using tiny::Make;
using tiny::RandomMicrobatch;

constexpr PassOptions kPass{.dropout_key = 77};

struct Feature {
  std::string name;
  ModelConfig config = tiny::Config();
  int64_t lora_rank = 0;
};

std::ostream& operator<<(std::ostream& out, const Feature& feature) { return out << feature.name; }

Feature QkNorm() {
  Feature f{"qk_norm"};
  f.config.qk_norm = true;
  f.config.head_dim = 20;
  f.config.tie_word_embeddings = false;
  return f;
}

// Wider than the fused kernels take: the plain attention computes them.
Feature WideHeads() {
  Feature f{"wide_heads"};
  f.config.head_dim = 260;
  f.config.num_attention_heads = 2;
  f.config.num_key_value_heads = 1;
  return f;
}

Feature Experts(bool seq_aux) {
  Feature f{seq_aux ? "moe_seq_aux" : "moe_batch_aux"};
  f.config.use_moe = true;
  f.config.seq_aux = seq_aux;
  f.config.norm_topk_prob = seq_aux;
  f.config.n_shared_experts = seq_aux ? 2 : 0;
  return f;
}

Feature Dropout(bool moe) {
  Feature f{moe ? "dropout_moe" : "dropout"};
  f.config.dropout = 0.2;
  f.config.use_moe = moe;
  return f;
}

// Heads and experts of sizes of their own.
Feature Minimind3Experts(int64_t chosen) {
  Feature f{"moe3_top_" + std::to_string(chosen)};
  f.config.qk_norm = true;
  f.config.head_dim = 20;
  f.config.use_moe = true;
  f.config.moe_family = MoeFamily::kMinimind3;
  f.config.moe_intermediate_size = 40;
  f.config.num_experts_per_tok = chosen;
  f.config.n_shared_experts = 0;
  f.config.seq_aux = false;
  return f;
}

// Every projection is square, the experts' too.
Feature Lora(bool moe) {
  Feature f{moe ? "lora_moe" : "lora"};
  f.config.num_key_value_heads = f.config.num_attention_heads;
  f.config.intermediate_size = f.config.hidden_size;
  f.config.use_moe = moe;
  f.lora_rank = 3;
  return f;
}

Feature Everything() {
  Feature f = Lora(true);
  f.name = "everything";
  f.lora_rank = 0;
  f.config.qk_norm = true;
  f.config.dropout = 0.1;
  return f;
}

// Weights for tests: adapters that do something, routers that are sure, so that
// rounding does not change who is chosen.
void Initialize(Minimind& model) {
  model.InitializeWeights(3);
  for (const ParameterView& view : model.parameters()) {
    if (view.name.ends_with("lora.B.weight")) {
      auto generator = at::make_generator<at::CPUGeneratorImpl>(view.offset);
      model.Parameter(view).copy_(at::randn(view.shape, generator).mul_(0.2));
    }
    if (view.name.ends_with("mlp.gate.weight")) model.Parameter(view).mul_(8);
    if (view.name.ends_with("q_norm.weight")) model.Parameter(view).mul_(1.5);
  }
  model.ParametersChanged();
}

class Features : public ::testing::TestWithParam<Feature> {
 protected:
  std::unique_ptr<Minimind> MakeModel(ComputeDtype compute, AttentionPath path) {
    auto model = Make(GetParam().config, {compute, path, GetParam().lora_rank});
    Initialize(*model);
    return model;
  }
};

TEST_P(Features, GradientAgreesWithFiniteDifferences) {
  // Every expert is chosen: where a step changes who is, the loss jumps. The golden training and
  // the kernels' tests have the choices.
  ModelConfig config = GetParam().config;
  config.num_experts_per_tok = config.n_routed_experts;
  const auto model = Make(config, {.lora_rank = GetParam().lora_rank});
  Initialize(*model);
  const Microbatch m = RandomMicrobatch(GetParam().config, 2, 33, 2);
  const LossAndGradient at_point = Compute(*model, m, kPass);
  int64_t trained = 0;
  for (const ParameterView& view : model->parameters()) {
    if (view.offset < model->trained_offset()) continue;
    const at::Tensor gradient =
        at_point.gradient.narrow(0, view.offset - model->trained_offset(), view.size);
    // Along the gradient itself the loss changes by step · |gradient|.
    const double norm = gradient.norm().item<double>();
    if (norm < 1e-3) continue;  // lost in float32's rounding of the loss
    ++trained;
    const double step = 4e-3;
    const at::Tensor direction = (gradient / norm).view(view.shape);
    const at::Tensor before = model->Parameter(view).clone();
    model->Parameter(view).add_(direction, step);
    model->ParametersChanged();
    const double up = Compute(*model, m, kPass).loss;
    model->Parameter(view).copy_(before).sub_(direction, step);
    model->ParametersChanged();
    const double down = Compute(*model, m, kPass).loss;
    model->Parameter(view).copy_(before);
    EXPECT_NEAR((up - down) / (2 * step), norm, 0.01 * norm + 3e-4) << view.name;
  }
  EXPECT_GT(trained, 8);
}

TEST_P(Features, BothAttentionPathsGiveTheSameGradient) {
  Microbatch m = RandomMicrobatch(GetParam().config, 3, 70, 1);
  m.mask.narrow(1, 50, 20).zero_();  // rows of different useful lengths
  m.mask[1].narrow(0, 20, 50).zero_();
  m.document_ids = at::arange(70, at::kInt).div(23, "trunc").to(at::kInt).expand({3, 70});
  m.document_ids = m.document_ids.contiguous();
  const auto fused = MakeModel(ComputeDtype::kFloat32, AttentionPath::kFused);
  const auto plain = MakeModel(ComputeDtype::kFloat32, AttentionPath::kPlain);
  const LossAndGradient a = Compute(*fused, m, kPass);
  const LossAndGradient b = Compute(*plain, m, kPass);
  EXPECT_NEAR(a.loss, b.loss, 1e-6 * a.loss);
  EXPECT_LT(golden::LargestDifference(a.gradient, b.gradient), 5e-6);
}

TEST_P(Features, ComposedBackendGivesTheSameLossAndGradient) {
  const Feature& feature = GetParam();
  Microbatch m = RandomMicrobatch(feature.config, 3, 70, 4);
  m.mask.narrow(1, 50, 20).zero_();  // rows of different useful lengths, and gaps between
  m.mask[2].copy_((at::arange(70) % 3 == 0).to(at::kByte));
  m.document_ids = at::arange(70, at::kInt).div(23, "trunc").to(at::kInt).repeat({3, 1});
  const auto own = MakeModel(ComputeDtype::kFloat32, AttentionPath::kFused);
  const auto composed =
      MakeAtenMinimind(feature.config, own->device(), {.lora_rank = feature.lora_rank});
  Initialize(*composed);
  const LossAndGradient a = Compute(*own, m, kPass);
  const LossAndGradient b = Compute(*composed, m, kPass);
  EXPECT_NEAR(a.loss, b.loss, 2e-6 * a.loss);
  EXPECT_LT(golden::LargestDifference(a.gradient, b.gradient), 5e-6);
  const LossSum c = own->EvaluateLoss(m).value();
  const LossSum d = composed->EvaluateLoss(m).value();
  EXPECT_EQ(c.targets, d.targets);
  EXPECT_NEAR(c.sum, d.sum, 2e-6 * c.sum);
}

TEST_P(Features, BfloatGradientPointsTheSameWay) {
  const Microbatch m = RandomMicrobatch(GetParam().config, 2, 100, 4);
  const auto exact = MakeModel(ComputeDtype::kFloat32, AttentionPath::kFused);
  const LossAndGradient a = Compute(*exact, m, kPass);
  for (const AttentionPath path : {AttentionPath::kFused, AttentionPath::kPlain}) {
    const auto rounded = MakeModel(ComputeDtype::kBfloat16, path);
    const LossAndGradient b = Compute(*rounded, m, kPass);
    EXPECT_NEAR(a.loss, b.loss, 0.02);
    const double cosine = (a.gradient * b.gradient).sum().item<double>() /
                          (a.gradient.norm() * b.gradient.norm()).item<double>();
    EXPECT_GT(cosine, 0.99);
    EXPECT_NEAR(b.gradient.norm().item<double>() / a.gradient.norm().item<double>(), 1, 0.03);
  }
}

void ExpectSameBits(const LossAndGradient& a, const LossAndGradient& b, int threads) {
  EXPECT_EQ(a.loss, b.loss) << threads << " threads";
  EXPECT_TRUE(a.gradient.equal(b.gradient)) << threads << " threads";
}

// Threads may decide bits only where the numerics' name says how many there are.
TEST_P(Features, RepeatTheirBitsWhateverRanBetween) {
  const Microbatch m = RandomMicrobatch(GetParam().config, 3, 90, 8);
  const Microbatch other = RandomMicrobatch(GetParam().config, 2, 50, 9);
  const int before = at::get_num_threads();
  for (const ComputeDtype compute : {ComputeDtype::kFloat32, ComputeDtype::kBfloat16}) {
    const auto model = MakeModel(compute, AttentionPath::kFused);
    std::map<std::string, LossAndGradient> by_name;
    for (const int threads : {1, 2}) {
      at::set_num_threads(threads);
      LossAndGradient first = Compute(*model, m, kPass);
      Compute(*model, other, {.dropout_key = 5});
      const LossAndGradient again = Compute(*model, m, kPass);
      ExpectSameBits(first, again, threads);
      const std::string name =
          CpuTrainingNumerics(FindCpuFacts(), threads)[static_cast<size_t>(compute)].name;
      const auto [same, added] = by_name.try_emplace(name, std::move(first));
      if (!added) ExpectSameBits(same->second, again, threads);
    }
  }
  at::set_num_threads(before);
}

TEST_P(Features, ScaledLossScalesTheGradientAlone) {
  const auto model = MakeModel(ComputeDtype::kFloat32, AttentionPath::kFused);
  const Microbatch m = RandomMicrobatch(GetParam().config, 2, 40, 8);
  const LossAndGradient one = Compute(*model, m, kPass);
  const LossAndGradient many = Compute(*model, m, {.dropout_key = 77, .loss_scale = 1024});
  EXPECT_EQ(one.loss, many.loss);
  EXPECT_LT(golden::LargestDifference(one.gradient * 1024, many.gradient),
            1e-5 * many.gradient.abs().max().item<double>());
}

TEST_P(Features, EvaluateWithoutDropoutAndBalance) {
  const auto model = MakeModel(ComputeDtype::kFloat32, AttentionPath::kFused);
  const auto plain = MakeModel(ComputeDtype::kFloat32, AttentionPath::kPlain);
  Microbatch m = RandomMicrobatch(GetParam().config, 2, 40, 8);
  m.mask.narrow(1, 0, 9).zero_();
  const at::Tensor log_p = at::log_softmax(model->Logits(m.input_ids).value(), -1);
  const at::Tensor losses = -log_p.gather(2, m.targets.unsqueeze(2)).squeeze(2);
  const double expected = (losses * m.mask).sum().item<double>();
  for (Minimind* each : {model.get(), plain.get()}) {
    const auto sum = each->EvaluateLoss(m);
    ASSERT_TRUE(sum.ok()) << sum.status();
    EXPECT_EQ(sum->targets, 2 * 31);
    EXPECT_NEAR(sum->sum, expected, 1e-5 * expected);
  }
}

TEST_P(Features, PaddedKeysChangeNothingForTheOthers) {
  const at::Tensor ids = RandomMicrobatch(GetParam().config, 2, 40, 3).input_ids;
  const at::Tensor padded = at::cat({at::zeros({2, 7}, at::kLong), ids}, 1).contiguous();
  at::Tensor mask = at::ones({2, 47}, at::kByte);
  mask.narrow(1, 0, 7).zero_();
  for (const AttentionPath path : {AttentionPath::kFused, AttentionPath::kPlain}) {
    const auto model = MakeModel(ComputeDtype::kFloat32, path);
    const at::Tensor all = model->Logits(ids).value();
    EXPECT_LT(golden::LargestDifference(model->Logits(ids, {}, 5).value(), all.narrow(1, 35, 5)),
              1e-5);
    EXPECT_LT(golden::LargestDifference(model->Logits(padded, mask, 40).value(), all), 2e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Features,
                         ::testing::Values(QkNorm(), WideHeads(), Experts(true), Experts(false),
                                           Minimind3Experts(1), Minimind3Experts(2), Dropout(false),
                                           Dropout(true), Lora(false), Lora(true), Everything()),
                         [](const auto& info) { return info.param.name; });

class GoldenExperts : public ::testing::TestWithParam<std::tuple<std::string, AttentionPath>> {};

TEST_P(GoldenExperts, LogitsAndBalanceLossAreWithinTwentyMillionths) {
  const auto& [name, path] = GetParam();
  const auto tensors = golden::Tensors(name);
  const auto model = Make(golden::Config(name), {ComputeDtype::kFloat32, path});
  golden::Load(tensors, "weights.", *model);
  const at::Tensor& ids = tensors.at("input_ids");
  const at::Tensor logits = model->Logits(ids).value();
  // Without dropout the two modes differ in the balance loss alone.
  EXPECT_LT(golden::LargestDifference(logits, tensors.at("logits_eval")), 2e-5);
  EXPECT_LT(golden::LargestDifference(logits, tensors.at("logits_train")), 2e-5);
  Microbatch m;
  m.input_ids = ids;
  m.targets = ids;
  m.mask = at::ones(ids.sizes(), at::kByte);
  const LossSum entropy = model->EvaluateLoss(m).value();
  EXPECT_NEAR(Compute(*model, m).loss - entropy.sum / static_cast<double>(entropy.targets),
              tensors.at("aux_loss").item<double>(), 2e-5);
}

INSTANTIATE_TEST_SUITE_P(
    All, GoldenExperts,
    ::testing::Combine(::testing::Values("moe_seq_aux", "moe_batch_aux", "moe3"),
                       ::testing::Values(AttentionPath::kFused, AttentionPath::kPlain)));

TEST(Experts, WithoutTokensHaveNoGradientAndTiesGoToTheLowest) {
  Feature f = Experts(false);
  const auto model = Make(f.config);
  model->InitializeWeights(1);
  for (const ParameterView& view : model->parameters()) {
    if (view.name.ends_with("mlp.gate.weight")) model->Parameter(view).zero_();  // all are equal
  }
  const LossAndGradient out = Compute(*model, RandomMicrobatch(f.config, 2, 20, 1));
  for (const ParameterView& view : model->parameters()) {
    const size_t at = view.name.find("experts.");
    if (at == std::string::npos) continue;
    const bool chosen = view.name[at + 8] < '2';
    const at::Tensor gradient = out.gradient.narrow(0, view.offset, view.size);
    EXPECT_EQ(gradient.abs().max().item<float>() > 0, chosen) << view.name;
  }
}

TEST(Dropout, DoesNotDependOnTheShapeOfTheMicrobatch) {
  const Feature f = Dropout(false);
  const auto model = Make(f.config);
  Initialize(*model);
  const Microbatch tight = RandomMicrobatch(f.config, 3, 40, 5);
  Microbatch wide;  // the same rows, padded
  wide.input_ids = at::cat({tight.input_ids, at::zeros({3, 30}, at::kLong)}, 1).contiguous();
  wide.targets = at::cat({tight.targets, at::zeros({3, 30}, at::kLong)}, 1).contiguous();
  wide.mask = at::cat({tight.mask, at::zeros({3, 30}, at::kByte)}, 1).contiguous();
  const LossAndGradient a = Compute(*model, tight, kPass);
  const LossAndGradient b = Compute(*model, wide, kPass);
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_TRUE(a.gradient.equal(b.gradient));
  EXPECT_NE(a.loss, Compute(*model, tight, {.dropout_key = 78}).loss);
}

TEST(Dropout, KeepsTheExpectedLoss) {
  Feature f = Dropout(true);
  f.config.dropout = 0.1;
  f.config.aux_loss_alpha = 0;
  const auto model = Make(f.config);
  Initialize(*model);
  const Microbatch m = RandomMicrobatch(f.config, 2, 40, 5);
  const LossSum without = model->EvaluateLoss(m).value();
  double mean = 0;
  for (uint64_t key = 0; key < 32; ++key) {
    mean += Compute(*model, m, {.dropout_key = key}).loss / 32;
  }
  EXPECT_NEAR(mean, without.sum / static_cast<double>(without.targets), 0.05);
}

TEST(Lora, ChangesNothingBeforeItIsTrainedAndTrainsOnlyAdapters) {
  const Feature f = Lora(false);
  const auto base = Make(f.config);
  const auto lora = Make(f.config, {.lora_rank = f.lora_rank});
  base->InitializeWeights(4);
  lora->InitializeWeights(4);
  EXPECT_EQ(lora->trained_offset(), base->parameter_count());
  EXPECT_TRUE(
      lora->flat_parameters().narrow(0, 0, base->parameter_count()).equal(base->flat_parameters()));
  const Microbatch m = RandomMicrobatch(f.config, 2, 40, 5);
  EXPECT_EQ(Compute(*base, m).loss, Compute(*lora, m).loss);
  const LossAndGradient out = Compute(*lora, m);
  EXPECT_EQ(out.gradient.numel(), lora->parameter_count() - base->parameter_count());
  for (const ParameterView& view : lora->parameters()) {
    if (view.offset < lora->trained_offset()) continue;
    const at::Tensor gradient =
        out.gradient.narrow(0, view.offset - lora->trained_offset(), view.size);
    const bool a = view.name.ends_with("A.weight");
    EXPECT_EQ(gradient.abs().max().item<float>() == 0, a) << view.name;  // B = 0 hides A
    if (a) {
      EXPECT_NEAR(lora->Parameter(view).std().item<double>(), 0.02, 0.004) << view.name;
    }
  }
}

}  // namespace
}  // namespace mindforge
