// The model on a GPU against the model on the CPU. Skips, saying so, where there is no GPU.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>

#include "tests/model/golden.h"
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

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "SKIPPED: this machine or build has no GPU";
  }
  static std::unique_ptr<Minimind> Make(const ModelConfig& config, c10::Device device,
                                        MinimindOptions options) {
    return Minimind::Create(config, device, options).value();
  }
  static std::pair<double, at::Tensor> Compute(Minimind& model, const Microbatch& m) {
    const at::Tensor gradient = at::full({model.parameter_count()}, 7.0f, model.device());
    const double loss = model.ForwardBackward(m, gradient).value().item<double>();
    return {loss, gradient.cpu()};
  }
};

TEST_F(GpuTest, HasTheWeightsAndGradientOfTheCpu) {
  const ModelConfig config = SmallConfig();
  for (const bool documents : {false, true}) {
    const Microbatch m = RandomMicrobatch(config, documents);
    const auto cpu = Make(config, kCpu, {});
    const auto gpu = Make(config, kCuda, {});
    cpu->InitializeWeights(5);
    gpu->InitializeWeights(5);
    EXPECT_TRUE(cpu->flat_parameters().equal(gpu->flat_parameters().cpu()));
    const auto [cpu_loss, cpu_gradient] = Compute(*cpu, m);
    const auto [gpu_loss, gpu_gradient] = Compute(*gpu, m);
    EXPECT_NEAR(cpu_loss, gpu_loss, 1e-5 * cpu_loss);
    EXPECT_LT(golden::LargestDifference(cpu_gradient, gpu_gradient), 1e-5);
  }
}

TEST_F(GpuTest, BfloatGradientPointsTheSameWayAndRepeatsItsBits) {
  const ModelConfig config = SmallConfig();
  for (const bool documents : {false, true}) {
    const Microbatch m = RandomMicrobatch(config, documents);
    const auto cpu = Make(config, kCpu, {});
    const auto gpu = Make(config, kCuda, {ComputeDtype::kBfloat16, AttentionPath::kFused});
    cpu->InitializeWeights(5);
    gpu->InitializeWeights(5);
    const auto [cpu_loss, exact] = Compute(*cpu, m);
    const auto [gpu_loss, rounded] = Compute(*gpu, m);
    EXPECT_NEAR(cpu_loss, gpu_loss, 0.01);
    const double cosine =
        (exact * rounded).sum().item<double>() / (exact.norm() * rounded.norm()).item<double>();
    EXPECT_GT(cosine, 0.998);
    for (int i = 0; i < 5; ++i) {
      const auto [loss, gradient] = Compute(*gpu, m);
      EXPECT_EQ(loss, gpu_loss);
      EXPECT_TRUE(gradient.equal(rounded));
    }
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
}

TEST_F(GpuTest, LogitsAreTheReferences) {
  for (const char* name : {"dense", "yarn", "yarn_minimind"}) {
    const auto tensors = golden::Tensors(name);
    const auto model = Make(golden::Config(name), kCuda, {});
    golden::Load(tensors, "weights.", *model);
    const at::Tensor logits = model->Logits(tensors.at("input_ids")).value().cpu();
    EXPECT_LT(golden::LargestDifference(logits, tensors.at("logits")), 2e-5) << name;
  }
}

}  // namespace
}  // namespace mindforge
