// What the LibTorch backend must do on every device: the reference's logits, and those of our CPU
// kernels.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/fakes/model_folder.h"
#include "tests/infer/runner_harness.h"
#include "worker/infer/runner_factory.h"
#include "worker/infer/torch_runner.h"

namespace mindforge {

inline RunnerOptions Options(const std::string& device = "cpu",
                             RunnerDtype dtype = RunnerDtype::kFloat32) {
  return {
      .device = device, .dtype = dtype, .slots = 3, .max_context = 128, .max_batch_tokens = 256};
}

inline std::unique_ptr<ModelRunner> Torch(const ModelFolder& folder, const RunnerOptions& options) {
  auto runner = MakeTorchRunner(folder, options);
  MF_CHECK_OK(runner);
  return std::move(*runner);
}

inline void ExpectTheReferencesLogits(const std::string& device, float tolerance) {
  for (const std::string name :
       {"dense", "yarn", "yarn_minimind", "moe_seq_aux", "moe_batch_aux", "dense3", "moe3"}) {
    const GoldenModel golden(name);
    std::vector<int32_t> ids = golden.Ids("input_ids");
    ids.resize(96);
    const bool moe = name.rfind("moe", 0) == 0;
    const std::vector<float> expected = golden.Values<float>(moe ? "logits_eval" : "logits");
    const auto runner = Torch(golden.model(), Options(device));
    for (int64_t chunk : {96, 40, 1}) {
      EXPECT_LE(LargestDifference(RunInChunks(*runner, ids, chunk, 1), expected.data()), tolerance)
          << name << " chunk " << chunk;
    }
  }
}

inline ModelConfig NormedConfig() {
  return {.hidden_size = 96,
          .num_hidden_layers = 2,
          .vocab_size = 200,
          .num_attention_heads = 6,
          .num_key_value_heads = 2,
          .head_dim = 24,
          .intermediate_size = 128,
          .max_position_embeddings = 128,
          .tie_word_embeddings = false,
          .qk_norm = true};
}

// A prefill chunk and two decodes of unlike lengths in one batch.
inline void ExpectAMixedBatchToAgree(const ModelConfig& config, const std::string& device,
                                     float tolerance) {
  const ModelFolder folder = RandomModel(config, 5);
  auto own = MakeModelRunner(folder, Options());
  ASSERT_TRUE(own.ok()) << own.status();
  const auto torch = Torch(folder, Options(device));
  std::vector<float> results[2];
  int which = 0;
  for (ModelRunner* runner : {own->get(), torch.get()}) {
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 60; ++i) ids.push_back(i * 37 % 200);
    const auto span = absl::MakeConstSpan(ids);
    StepBatch first, second;
    first.rows = {{.slot = 2, .start_position = 0, .tokens = span.subspan(0, 40), .logits = 2},
                  {.slot = 0, .start_position = 0, .tokens = span.subspan(5, 7), .logits = 0}};
    second.rows = {{.slot = 0, .start_position = 7, .tokens = span.subspan(12, 1), .logits = 1},
                   {.slot = 1, .start_position = 0, .tokens = span.subspan(20, 30), .logits = 3},
                   {.slot = 2, .start_position = 40, .tokens = span.subspan(40, 1), .logits = 1}};
    std::vector<float>& logits = results[which++];
    logits.resize((2 + 5) * 200);
    ASSERT_TRUE(runner->Forward(first, logits.data()).ok());
    ASSERT_TRUE(runner->Forward(second, &logits[2 * 200]).ok());
  }
  EXPECT_LE(LargestDifference(results[0], results[1].data()), tolerance);
}

inline ModelConfig Minimind3Config(int64_t experts_per_token) {
  ModelConfig config = NormedConfig();
  config.use_moe = true;
  config.moe_family = MoeFamily::kMinimind3;
  config.moe_intermediate_size = 72;
  config.num_experts_per_tok = experts_per_token;
  config.n_shared_experts = 0;
  config.seq_aux = false;
  return config;
}

// Dense, and mixtures of several kinds.
inline void ExpectMixedBatchesToAgreeWithTheCpuKernels(const std::string& device, float tolerance) {
  ModelConfig config = NormedConfig();
  ExpectAMixedBatchToAgree(config, device, tolerance);
  config.use_moe = true;
  ExpectAMixedBatchToAgree(config, device, tolerance);
  config.n_routed_experts = 9;
  config.num_experts_per_tok = 3;
  config.n_shared_experts = 2;
  config.norm_topk_prob = false;
  config.head_dim = 96;
  ExpectAMixedBatchToAgree(config, device, tolerance);
  config.num_experts_per_tok = 1;
  config.n_shared_experts = 0;
  ExpectAMixedBatchToAgree(config, device, tolerance);
  ExpectAMixedBatchToAgree(Minimind3Config(1), device, tolerance);
  ExpectAMixedBatchToAgree(Minimind3Config(2), device, tolerance);
}

// bfloat16's logits of the golden model stay within 5% of the largest one.
inline void ExpectBfloat16ToStayNear(const std::string& device) {
  const GoldenModel golden("dense");
  std::vector<int32_t> ids = golden.Ids("input_ids");
  ids.resize(96);
  const std::vector<float> expected = golden.Values<float>("logits");
  float scale = 0;
  for (float v : expected) scale = std::max(scale, std::abs(v));
  const auto runner = Torch(golden.model(), Options(device, RunnerDtype::kBfloat16));
  EXPECT_LE(LargestDifference(RunInChunks(*runner, ids, 96), expected.data()), 0.05f * scale);
}

}  // namespace mindforge
