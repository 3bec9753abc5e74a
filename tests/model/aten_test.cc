// The composed backend on the CPU: what it computes with experts, adapters, dropout and float16.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/model/golden.h"
#include "tests/model/tiny.h"
#include "worker/kernels/philox.h"
#include "worker/model/adamw.h"
#include "worker/model/aten_dropout.h"
#include "worker/model/aten_minimind.h"

namespace mindforge {
namespace {

using tiny::Compute;
using tiny::LossAndGradient;

const c10::Device kCpu(c10::kCPU);

ModelConfig MoeConfig() {
  ModelConfig config = tiny::Config();
  config.use_moe = true;
  config.qk_norm = true;
  config.head_dim = 16;
  return config;
}

Microbatch PaddedMicrobatch(const ModelConfig& config, uint64_t seed) {
  Microbatch m = tiny::RandomMicrobatch(config, 3, 40, seed);
  m.mask[1].narrow(0, 25, 15).zero_();
  return m;
}

std::unique_ptr<Minimind> Make(const ModelConfig& config, MinimindOptions options = {}) {
  std::unique_ptr<Minimind> model = MakeAtenMinimind(config, kCpu, options);
  model->InitializeWeights(5);
  return model;
}

double Cosine(const at::Tensor& a, const at::Tensor& b) {
  return (a * b).sum().item<double>() / (a.norm() * b.norm()).item<double>();
}

TEST(AtenMinimind, MoeLogitsAndAuxiliaryLossAreTheReferences) {
  for (const std::string name : {"moe_seq_aux", "moe_batch_aux", "moe3"}) {
    const auto tensors = golden::Tensors(name);
    const auto model = Make(golden::Config(name));
    golden::Load(tensors, "weights.", *model);
    const at::Tensor ids = tensors.at("input_ids");
    EXPECT_LT(golden::LargestDifference(*model->Logits(ids), tensors.at("logits_eval")), 2e-5);
    Microbatch m;
    m.input_ids = m.targets = ids;
    m.mask = at::ones(ids.sizes(), at::kByte);
    const LossSum plain = model->EvaluateLoss(m).value();
    EXPECT_EQ(plain.targets, ids.numel());
    const double auxiliary =
        Compute(*model, m).loss - plain.sum / static_cast<double>(plain.targets);
    EXPECT_NEAR(auxiliary, tensors.at("aux_loss").item<double>(), 2e-6) << name;
  }
}

TEST(AtenMinimind, RecordsTheRouting) {
  std::vector<at::Tensor> routing;
  MinimindOptions options;
  options.routing = &routing;
  const ModelConfig config = MoeConfig();
  const auto model = Make(config, options);
  ASSERT_TRUE(model->Logits(PaddedMicrobatch(config, 1).input_ids).ok());
  ASSERT_EQ(routing.size(), 2u);
  EXPECT_EQ(routing[1].sizes(), at::IntArrayRef({120, 2}));
  EXPECT_TRUE((routing[0].select(1, 0) != routing[0].select(1, 1)).all().item<bool>());
}

TEST(AtenMinimind, EqualExpertsAreTakenFromTheLowestOn) {
  std::vector<at::Tensor> routing;
  MinimindOptions options;
  options.routing = &routing;
  const ModelConfig config = MoeConfig();
  const auto model = Make(config, options);
  for (const ParameterView& view : model->parameters()) {
    if (view.name.ends_with("mlp.gate.weight")) model->Parameter(view).zero_();
  }
  model->ParametersChanged();
  const Microbatch m = PaddedMicrobatch(config, 1);
  ASSERT_TRUE(model->Logits(m.input_ids).ok());
  EXPECT_TRUE((routing[0] == at::arange(2)).all().item<bool>());
  // Experts that nobody chose have a gradient of zero.
  const at::Tensor gradient = Compute(*model, m).gradient;
  for (const ParameterView& view : model->parameters()) {
    if (view.name.find("experts.3.up") == std::string::npos) continue;
    EXPECT_EQ(gradient.narrow(0, view.offset, view.size).abs().max().item<float>(), 0);
  }
}

TEST(AtenMinimind, WithoutTargetsLossAndGradientAreZero) {
  const ModelConfig config = MoeConfig();
  const auto model = Make(config);
  Microbatch m = PaddedMicrobatch(config, 1);
  m.mask.zero_();
  const LossAndGradient zero = Compute(*model, m);
  EXPECT_EQ(zero.loss, 0);
  EXPECT_EQ(zero.gradient.abs().max().item<float>(), 0);
}

TEST(AtenMinimind, DropsByKeyAloneAndNotInEvaluation) {
  ModelConfig config = MoeConfig();
  config.dropout = 0.1;
  const auto model = Make(config);
  const Microbatch m = PaddedMicrobatch(config, 3);
  const LossAndGradient a = Compute(*model, m, {.dropout_key = 1});
  const LossAndGradient b = Compute(*model, m, {.dropout_key = 1});
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_TRUE(a.gradient.equal(b.gradient));
  EXPECT_NE(a.loss, Compute(*model, m, {.dropout_key = 2}).loss);
  config.dropout = 0;
  const auto whole = Make(config);
  EXPECT_EQ(model->EvaluateLoss(m)->sum, whole->EvaluateLoss(m)->sum);
  EXPECT_TRUE(model->Logits(m.input_ids)->equal(*whole->Logits(m.input_ids)));
}

TEST(DropoutMask, IsPhiloxOfThePosition) {
  DropoutRows rows{.key = 0x123456789abcdef0, .stream = 7};
  rows.streams = at::tensor({0, 3}, at::kLong);
  rows.rows = at::tensor({2, 70000}, at::kLong);
  rows.positions = at::tensor({511, 0}, at::kLong);
  rows.columns = 150;
  const at::Tensor mask = DropoutMask(rows, 0.25);
  ASSERT_EQ(mask.sizes(), at::IntArrayRef({2, 150}));
  for (const int64_t token : {0, 1}) {
    for (const int64_t column : {0, 15, 16, 63, 64, 149}) {
      const auto lane = static_cast<uint64_t>(column / 64 * 16 + column % 16);
      const uint64_t stream = token == 0 ? 7 : 10;
      const auto place = static_cast<uint64_t>(rows.rows[token].item<int64_t>()) << 32 |
                         static_cast<uint64_t>(rows.positions[token].item<int64_t>());
      const auto words = Philox(rows.key, stream << 32 | lane, place);
      EXPECT_EQ(mask[token][column].item<bool>(), words[column % 64 / 16] >= 0x40000000u);
    }
  }
  rows.streams = at::Tensor();
  rows.columns = 20'000;
  EXPECT_NEAR(DropoutMask(rows, 0.25).to(at::kFloat).mean().item<double>(), 0.75, 0.01);
}

// W + B A in place of W is the same model, and the adapters' gradients follow from W's.
TEST(AtenMinimind, AdaptersComputeAndLearnAsTheProductTheyStandFor) {
  ModelConfig config = tiny::Config();
  config.num_key_value_heads = 4;
  config.intermediate_size = 48;  // every projection is square
  const auto adapted = Make(config, {.lora_rank = 4});
  const auto merged = Make(config);
  const Microbatch m = PaddedMicrobatch(config, 3);
  std::map<std::string, ParameterView> base, adapters;
  for (const ParameterView& view : merged->parameters()) base[view.name] = view;
  const at::Tensor tail =
      adapted->flat_parameters().narrow(0, adapted->trained_offset(), adapted->trained_count());
  tail.copy_(at::randn_like(tail) * 0.1);
  adapted->ParametersChanged();
  for (const ParameterView& view : adapted->parameters()) adapters[view.name] = view;
  int64_t count = 0;
  for (const auto& [name, view] : base) {
    const std::string module = name.substr(0, name.size() - std::string("weight").size());
    if (!adapters.contains(module + "lora.A.weight")) continue;
    ++count;
    merged->Parameter(view).add_(at::mm(adapted->Parameter(adapters[module + "lora.B.weight"]),
                                        adapted->Parameter(adapters[module + "lora.A.weight"])));
  }
  EXPECT_EQ(count, 14);  // 7 of each layer
  merged->ParametersChanged();
  const LossAndGradient full = Compute(*merged, m);
  const LossAndGradient low = Compute(*adapted, m);
  EXPECT_NEAR(full.loss, low.loss, 1e-5);
  for (const auto& [name, view] : base) {
    const std::string module = name.substr(0, name.size() - std::string("weight").size());
    if (!adapters.contains(module + "lora.A.weight")) continue;
    const ParameterView& a = adapters[module + "lora.A.weight"];
    const ParameterView& b = adapters[module + "lora.B.weight"];
    const at::Tensor d = full.gradient.narrow(0, view.offset, view.size).view(view.shape);
    const auto part = [&](const ParameterView& p) {
      return low.gradient.narrow(0, p.offset - adapted->trained_offset(), p.size).view(p.shape);
    };
    EXPECT_LT(golden::LargestDifference(part(b), at::mm(d, adapted->Parameter(a).t())), 2e-6);
    EXPECT_LT(golden::LargestDifference(part(a), at::mm(adapted->Parameter(b).t(), d)), 2e-6);
  }
}

TEST(AtenMinimind, Float16PointsTheSameWayAtAnyLossScale) {
  for (const ModelConfig& config : {tiny::Config(), MoeConfig()}) {
    const auto exact = Make(config);
    const auto half = Minimind::Create(config, kCpu, {ComputeDtype::kFloat16}).value();
    half->InitializeWeights(5);
    EXPECT_EQ(half->compute_parameters().scalar_type(), at::kHalf);
    const Microbatch m = PaddedMicrobatch(config, 3);
    const LossAndGradient a = Compute(*exact, m);
    const LossAndGradient b = Compute(*half, m, {.loss_scale = 4096});
    EXPECT_NEAR(a.loss, b.loss, 0.002 * a.loss);
    EXPECT_GT(Cosine(a.gradient, b.gradient), 0.999);
    EXPECT_NEAR((b.gradient.norm() / a.gradient.norm()).item<double>() / 4096, 1, 0.01);
    // A scale that float16 does not hold: the optimizer sees it and leaves everything alone.
    const LossAndGradient c = Compute(*half, m, {.loss_scale = 1e12});
    const at::Tensor before = half->flat_parameters().clone();
    AdamW optimizer(half->parameter_count(), kCpu, {});
    EXPECT_FALSE(
        optimizer
            .Step({1, 0.1, 1e-12}, c.gradient, half->flat_parameters(), half->compute_parameters())
            .applied);
    EXPECT_TRUE(before.equal(half->flat_parameters()));
    EXPECT_EQ(optimizer.second_moment().abs().max().item<float>(), 0);
  }
}

TEST(AtenMinimind, PaddingBlocksKeysOfBothAttentionPaths) {
  const ModelConfig config = MoeConfig();
  const at::Tensor ids = PaddedMicrobatch(config, 1).input_ids;
  const at::Tensor padding = at::ones(ids.sizes(), at::kByte);
  padding.narrow(1, 0, 9).zero_();
  for (const AttentionPath path : {AttentionPath::kFused, AttentionPath::kPlain}) {
    const auto model = Make(config, {ComputeDtype::kFloat32, path});
    at::Tensor other = ids.clone();
    other.narrow(1, 0, 9).copy_((other.narrow(1, 0, 9) + 1).remainder(config.vocab_size));
    const at::Tensor a = model->Logits(ids, padding).value().narrow(1, 9, 31);
    EXPECT_TRUE(a.equal(model->Logits(other, padding).value().narrow(1, 9, 31)));
    EXPECT_GT(golden::LargestDifference(a, model->Logits(ids).value().narrow(1, 9, 31)), 1e-3);
  }
}

}  // namespace
}  // namespace mindforge
