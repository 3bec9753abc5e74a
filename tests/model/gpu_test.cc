// The model on a GPU against the model on the CPU. Skips, saying so, where there is no GPU.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/model/golden_training.h"
#include "worker/model/adamw.h"
#include "worker/model/minimind.h"

namespace mindforge {
namespace {

const c10::Device kCpu(c10::kCPU);
const c10::Device kCuda(c10::kCUDA, 0);

ModelConfig SmallConfig() {
  ModelConfig config;
  config.hidden_size = 256;
  config.num_hidden_layers = 3;
  config.vocab_size = 1000;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.max_position_embeddings = 512;
  return config;
}

struct Kind {
  std::string name;
  ModelConfig config;
  int64_t lora_rank = 0;
};

// A dense model, and each of what can be added to it.
std::vector<Kind> Kinds() {
  std::vector<Kind> kinds = {{"dense", SmallConfig()}};
  kinds.push_back({"qk_norm", SmallConfig()});
  kinds.back().config.qk_norm = true;
  kinds.back().config.head_dim = 96;
  kinds.push_back({"moe, balanced by sequence", SmallConfig()});
  kinds.back().config.use_moe = true;
  kinds.push_back({"moe, balanced by batch", SmallConfig()});
  kinds.back().config.use_moe = true;
  kinds.back().config.seq_aux = false;
  kinds.back().config.n_routed_experts = 6;
  kinds.back().config.num_experts_per_tok = 3;
  kinds.back().config.qk_norm = true;
  for (const int64_t chosen : {1, 2}) {
    kinds.push_back({"moe of MiniMind-3, top-" + std::to_string(chosen), SmallConfig()});
    ModelConfig& config = kinds.back().config;
    config.use_moe = true;
    config.moe_family = MoeFamily::kMinimind3;
    config.moe_intermediate_size = 160;
    config.num_experts_per_tok = chosen;
    config.n_shared_experts = 0;
    config.seq_aux = false;
    config.qk_norm = true;
    config.head_dim = 96;
    config.rms_norm_eps = 1e-6;
  }
  kinds.push_back({"adapters", SmallConfig(), 8});
  kinds.push_back({"dropout", SmallConfig()});
  kinds.back().config.dropout = 0.1;
  return kinds;
}

Microbatch RandomMicrobatch(const ModelConfig& config, bool documents) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(7);
  Microbatch m;
  m.input_ids = at::randint(0, config.vocab_size, {4, 200}, generator, at::kLong);
  m.targets = at::randint(0, config.vocab_size, {4, 200}, generator, at::kLong);
  m.mask = at::ones({4, 200}, at::kByte);
  m.mask.narrow(1, 150, 50).zero_();
  if (documents) {
    m.document_ids =
        at::arange(200, at::kInt).div(61, "trunc").to(at::kInt).expand({4, 200}).contiguous();
  }
  return m;
}

// Few and scattered targets, rows of different useful lengths, one without any: most logits are not
// needed.
Microbatch SparseMicrobatch(const ModelConfig& config, bool documents) {
  Microbatch m = RandomMicrobatch(config, documents);
  m.mask.zero_();
  auto* mask = static_cast<uint8_t*>(m.mask.mutable_data_ptr());
  for (int64_t row = 0; row < 3; ++row) {
    for (int64_t i = row; i < 60 * row + 71; i += 7) mask[row * 200 + i] = 1;
  }
  return m;
}

std::vector<Microbatch> Microbatches(const ModelConfig& config) {
  return {RandomMicrobatch(config, /*documents=*/false), RandomMicrobatch(config, true),
          SparseMicrobatch(config, /*documents=*/false), SparseMicrobatch(config, true)};
}

double Cosine(const at::Tensor& first, const at::Tensor& second) {
  const at::Tensor a = first.to(at::kDouble);
  const at::Tensor b = second.to(at::kDouble);
  return (a * b).sum().item<double>() / (a.norm() * b.norm()).item<double>();
}

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "SKIPPED: this machine or build has no GPU";
  }
  static std::unique_ptr<Minimind> Make(const Kind& kind, c10::Device device,
                                        ComputeDtype compute = ComputeDtype::kFloat32,
                                        AttentionPath attention = AttentionPath::kFused) {
    auto model =
        Minimind::Create(kind.config, device,
                         {.compute = compute, .attention = attention, .lora_rank = kind.lora_rank})
            .value();
    model->InitializeWeights(5);
    if (kind.lora_rank > 0) {  // adapters that change something
      auto generator = at::make_generator<at::CPUGeneratorImpl>(8);
      const int64_t count = model->trained_count();
      model->flat_parameters()
          .narrow(0, model->trained_offset(), count)
          .copy_(at::randn({count}, generator) * 0.05);
      model->ParametersChanged();
    }
    return model;
  }
  static std::pair<double, at::Tensor> Compute(Minimind& model, const Microbatch& m,
                                               float loss_scale = 1) {
    const at::Tensor gradient = at::full({model.trained_count()}, 7.0f, model.device());
    const double loss =
        model.ForwardBackward(m, gradient, {.dropout_key = 3, .loss_scale = loss_scale})
            .value()
            .item<double>();
    return {loss, gradient.cpu() / loss_scale};
  }
};

TEST_F(GpuTest, HasTheWeightsLossAndGradientOfTheCpu) {
  for (const Kind& kind : Kinds()) {
    SCOPED_TRACE(kind.name);
    for (const Microbatch& m : Microbatches(kind.config)) {
      const auto cpu = Make(kind, kCpu);
      const auto gpu = Make(kind, kCuda);
      EXPECT_TRUE(cpu->flat_parameters().equal(gpu->flat_parameters().cpu()));
      const auto [cpu_loss, cpu_gradient] = Compute(*cpu, m);
      const auto [gpu_loss, gpu_gradient] = Compute(*gpu, m);
      EXPECT_NEAR(cpu_loss, gpu_loss, 1e-5 * cpu_loss);
      EXPECT_LT(golden::LargestDifference(cpu_gradient, gpu_gradient), 1e-5);
      const LossSum cpu_sum = cpu->EvaluateLoss(m).value();
      const LossSum gpu_sum = gpu->EvaluateLoss(m).value();
      EXPECT_EQ(cpu_sum.targets, gpu_sum.targets);
      EXPECT_NEAR(cpu_sum.sum, gpu_sum.sum, 1e-5 * cpu_sum.sum);
    }
  }
}

TEST_F(GpuTest, SixteenBitGradientsPointTheSameWay) {
  for (const Kind& kind : Kinds()) {
    SCOPED_TRACE(kind.name);
    for (const Microbatch& m : Microbatches(kind.config)) {
      const auto [cpu_loss, exact] = Compute(*Make(kind, kCpu), m);
      const auto [bfloat_loss, bfloat] = Compute(*Make(kind, kCuda, ComputeDtype::kBfloat16), m);
      const auto [half_loss, half] = Compute(*Make(kind, kCuda, ComputeDtype::kFloat16), m, 4096);
      // Rounding sends a few tokens to other experts, and where each has but one, that changes all
      // of their output; the CPU's bfloat16 is as far off.
      const bool alone = kind.config.use_moe && kind.config.num_experts_per_tok == 1;
      EXPECT_NEAR(cpu_loss, bfloat_loss, alone ? 0.03 : 0.01);
      EXPECT_NEAR(cpu_loss, half_loss, alone ? 0.01 : 0.002);
      EXPECT_GT(Cosine(exact, bfloat), alone ? 0.98 : kind.config.use_moe ? 0.997 : 0.9995);
      EXPECT_GT(Cosine(exact, half), alone ? 0.99 : kind.config.use_moe ? 0.998 : 0.9995);
    }
  }
}

TEST_F(GpuTest, PlainAttentionGivesTheGradientOfTheCpu) {
  for (const Kind& kind : Kinds()) {
    SCOPED_TRACE(kind.name);
    const Microbatch m = RandomMicrobatch(kind.config, /*documents=*/true);
    const auto cpu = Make(kind, kCpu, ComputeDtype::kFloat32, AttentionPath::kPlain);
    const auto gpu = Make(kind, kCuda, ComputeDtype::kFloat32, AttentionPath::kPlain);
    const auto [cpu_loss, cpu_gradient] = Compute(*cpu, m);
    const auto [gpu_loss, gpu_gradient] = Compute(*gpu, m);
    EXPECT_NEAR(cpu_loss, gpu_loss, 1e-5 * cpu_loss);
    EXPECT_LT(golden::LargestDifference(cpu_gradient, gpu_gradient), 1e-5);
  }
}

TEST_F(GpuTest, TakesMicrobatchesOfTheDeviceAndOfEverySize) {
  const Kind kind{"dense", SmallConfig()};
  const auto gpu = Make(kind, kCuda);
  const Microbatch large = RandomMicrobatch(kind.config, /*documents=*/true);
  const auto [loss, gradient] = Compute(*gpu, large);
  Microbatch small;
  small.input_ids = large.input_ids.narrow(0, 1, 1).narrow(1, 0, 3).contiguous();
  small.targets = large.targets.narrow(0, 1, 1).narrow(1, 0, 3).contiguous();
  small.mask = at::ones({1, 3}, at::kByte);
  const auto [cpu_loss, cpu_gradient] = Compute(*Make(kind, kCpu), small);
  const auto [small_loss, small_gradient] = Compute(*gpu, small);
  EXPECT_NEAR(cpu_loss, small_loss, 1e-5 * cpu_loss);
  EXPECT_LT(golden::LargestDifference(cpu_gradient, small_gradient), 1e-5);
  Microbatch moved = large;
  for (at::Tensor* x : {&moved.input_ids, &moved.targets, &moved.mask, &moved.document_ids}) {
    *x = x->to(kCuda);
  }
  const auto [again_loss, again] = Compute(*gpu, moved);
  EXPECT_EQ(again_loss, loss);
  EXPECT_TRUE(again.equal(gradient));
  moved.mask.zero_();
  const auto [nothing, zeros] = Compute(*gpu, moved);
  EXPECT_EQ(nothing, 0);
  EXPECT_EQ(zeros.abs().max().item<float>(), 0);
  // Ids are checked although they are the device's.
  moved.mask.fill_(1);
  moved.input_ids[2][5] = kind.config.vocab_size;
  EXPECT_FALSE(gpu->ForwardBackward(moved, at::empty({gpu->trained_count()}, kCuda)).ok());
}

TEST_F(GpuTest, RunsRepeatTheirBits) {
  for (const Kind& kind : Kinds()) {
    SCOPED_TRACE(kind.name);
    for (const ComputeDtype compute :
         {ComputeDtype::kFloat32, ComputeDtype::kBfloat16, ComputeDtype::kFloat16}) {
      const Microbatch m = SparseMicrobatch(kind.config, /*documents=*/true);
      const auto model = Make(kind, kCuda, compute);
      const auto [first_loss, first] = Compute(*model, m);
      for (int i = 0; i < 5; ++i) {
        const auto [loss, gradient] = Compute(*model, m);
        EXPECT_EQ(loss, first_loss);
        EXPECT_TRUE(gradient.equal(first));
      }
    }
  }
}

TEST_F(GpuTest, TrainsAsTheReference) {
  for (const char* name : {"train_dense", "train_moe", "train_dense3", "train_moe3"}) {
    SCOPED_TRACE(name);
    golden::ExpectTraining(name, *Minimind::Create(golden::Config(name), kCuda, {}).value());
  }
}

TEST_F(GpuTest, OptimizerAgreesWithTheCpu) {
  const int64_t size = 50'001;
  const at::Tensor start = at::randn({size});
  const at::Tensor gradient = at::randn({size});
  const at::Tensor on_cpu = start.clone();
  const at::Tensor on_gpu = start.to(kCuda);
  const at::Tensor copy = at::empty({size}, at::TensorOptions().device(kCuda).dtype(at::kBFloat16));
  AdamW cpu(size, kCpu, {});
  AdamW gpu(size, kCuda, {});
  for (int64_t s = 1; s <= 3; ++s) {
    const AdamWStep step{s, 1e-3, 0.5};
    const AdamWResult a = cpu.Step(step, gradient, on_cpu, {});
    const AdamWResult b = gpu.Step(step, gradient.to(kCuda), on_gpu, copy);
    EXPECT_NEAR(a.gradient_norm, b.gradient_norm, 1e-5 * a.gradient_norm);
  }
  EXPECT_LT(golden::LargestDifference(on_cpu, on_gpu.cpu()), 1e-6);
  EXPECT_TRUE(copy.equal(on_gpu.to(at::kBFloat16)));
  // Nothing changes when the gradient is not finite.
  const at::Tensor before = on_gpu.clone();
  const at::Tensor broken = gradient.to(kCuda);
  broken[70].fill_(std::numeric_limits<float>::infinity());
  EXPECT_FALSE(gpu.Step({4, 1e-3, 0.5}, broken, on_gpu, copy).applied);
  EXPECT_TRUE(before.equal(on_gpu));
}

TEST_F(GpuTest, LogitsAreTheReferences) {
  for (const std::string name :
       {"dense", "yarn", "yarn_minimind", "moe_seq_aux", "dense3", "moe3"}) {
    const auto tensors = golden::Tensors(name);
    const auto model = Minimind::Create(golden::Config(name), kCuda, {}).value();
    golden::Load(tensors, "weights.", *model);
    const at::Tensor logits = model->Logits(tensors.at("input_ids")).value().cpu();
    const bool moe = name.starts_with("moe");
    EXPECT_LT(golden::LargestDifference(logits, tensors.at(moe ? "logits_eval" : "logits")), 2e-5)
        << name;
  }
}

}  // namespace
}  // namespace mindforge
