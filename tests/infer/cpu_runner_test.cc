#include "worker/infer/cpu_runner.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/fakes/model_folder.h"
#include "tests/infer/runner_harness.h"

namespace mindforge {
namespace {

constexpr int64_t kContext = 128;

std::unique_ptr<CpuRunner> Load(const ModelFolder& folder, InferDtype dtype, InferIsa isa,
                                int64_t threads = 1, int64_t slots = 2) {
  auto model = LoadCpuModel(folder, dtype, kContext);
  MF_CHECK_OK(model);
  auto runner = CpuRunner::Create(std::move(*model), {.isa = isa,
                                                      .slots = slots,
                                                      .max_context = kContext,
                                                      .max_batch_tokens = 256,
                                                      .threads = threads});
  MF_CHECK_OK(runner);
  return std::move(*runner);
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<int32_t> RandomIds(int64_t count, int64_t vocab, uint32_t seed) {
  std::mt19937 engine(seed);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = static_cast<int32_t>(engine() % vocab);
  return ids;
}

// A mixture of experts has logits of training and of evaluation.
std::vector<float> ExpectedLogits(const GoldenModel& golden, const std::string& name) {
  return golden.Values<float>(name.rfind("moe", 0) == 0 ? "logits_eval" : "logits");
}

class GoldenTest : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldenTest, LogitsMatchHoweverTheSequenceIsCutAndWhateverRunsIt) {
  const GoldenModel golden(GetParam());
  const std::vector<int32_t> ids = golden.Ids("input_ids");  // [2, 96]
  const std::vector<float> expected = ExpectedLogits(golden, GetParam());
  const auto length = static_cast<int64_t>(ids.size()) / 2;
  const InferIsa best = AvailableInferIsas().back();
  for (int64_t b = 0; b < 2; ++b) {
    const std::vector<int32_t> row(ids.begin() + b * length, ids.begin() + (b + 1) * length);
    const auto plain = Load(golden.model(), InferDtype::kFloat32, best);
    const std::vector<float> whole = RunInChunks(*plain, row, length);
    EXPECT_LE(LargestDifference(whole, &expected[b * length * 128]), 2e-5);
    for (int64_t chunk : {40, 7, 1}) {
      EXPECT_TRUE(SameBits(RunInChunks(*plain, row, chunk, b), whole)) << "chunk " << chunk;
    }
    for (InferIsa isa : AvailableInferIsas()) {
      const auto runner = Load(golden.model(), InferDtype::kFloat32, isa);
      EXPECT_TRUE(SameBits(RunInChunks(*runner, row, 40), whole)) << InferIsaName(isa);
    }
    for (int64_t threads : {2, 3}) {
      const auto runner = Load(golden.model(), InferDtype::kFloat32, best, threads);
      EXPECT_TRUE(SameBits(RunInChunks(*runner, row, 40), whole)) << threads << " threads";
    }
  }
}

TEST_P(GoldenTest, Bfloat16StaysNearAndHasTheSameBitsHoweverCut) {
  const GoldenModel golden(GetParam());
  std::vector<int32_t> ids = golden.Ids("input_ids");
  ids.resize(96);
  const std::vector<float> expected = ExpectedLogits(golden, GetParam());
  for (InferIsa isa : AvailableInferIsas()) {
    const auto runner = Load(golden.model(), InferDtype::kBfloat16, isa);
    const std::vector<float> whole = RunInChunks(*runner, ids, 96);
    float scale = 0;
    for (float v : expected) scale = std::max(scale, std::abs(v));
    // Rounding may send a token whose experts are nearly tied to the other one.
    int64_t far = 0;
    for (int64_t t = 0; t < 96; ++t) {
      const std::vector<float> at(whole.begin() + t * 128, whole.begin() + (t + 1) * 128);
      if (LargestDifference(at, &expected[t * 128]) > 0.03f * scale) ++far;
    }
    EXPECT_LE(far, std::string(GetParam()) == "moe3" ? 2 : 0) << InferIsaName(isa);
    for (int64_t chunk : {40, 7}) {
      EXPECT_TRUE(SameBits(RunInChunks(*runner, ids, chunk, 1), whole)) << chunk;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, GoldenTest,
                         ::testing::Values("dense", "yarn", "yarn_minimind", "moe_seq_aux",
                                           "moe_batch_aux", "dense3", "moe3"));

TEST(CpuRunner, GreedyStepsAreTheReferences) {
  const GoldenModel golden("greedy");
  std::vector<int32_t> tokens = golden.Ids("prompt");
  const std::vector<int32_t> expected = golden.Ids("greedy");
  const std::vector<float> step_logits = golden.Values<float>("step_logits");  // [1, 17, 128]
  const auto runner = Load(golden.model(), InferDtype::kFloat32, AvailableInferIsas().back(), 2);
  int64_t computed = 0;
  std::vector<float> logits(128);
  for (size_t step = 0; step <= expected.size(); ++step) {
    StepBatch batch;
    batch.rows.push_back({.slot = 0,
                          .start_position = computed,
                          .tokens = absl::MakeConstSpan(tokens).subspan(computed),
                          .logits = 1});
    ASSERT_TRUE(runner->Forward(batch, logits.data()).ok());
    computed = static_cast<int64_t>(tokens.size());
    EXPECT_LE(LargestDifference(logits, &step_logits[step * 128]), 2e-5);
    if (step == expected.size()) break;
    tokens.push_back(
        static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    EXPECT_EQ(tokens.back(), expected[step]) << "step " << step;
  }
}

struct Shape {
  const char* name;
  ModelConfig config;
};

class ShapeTest : public ::testing::TestWithParam<Shape> {};

// Sequences in random pieces, mixed at random into batches, against each alone.
TEST_P(ShapeTest, ASequencesBitsDoNotDependOnItsNeighbours) {
  const ModelFolder folder = RandomModel(GetParam().config, 5);
  constexpr int64_t kSequences = 9;
  const int64_t vocab = GetParam().config.vocab_size;
  for (InferDtype dtype : {InferDtype::kFloat32, InferDtype::kBfloat16}) {
    const InferIsa isa = AvailableInferIsas().back();
    const auto alone = Load(folder, dtype, isa);
    const auto mixed = Load(folder, dtype, isa, 2, kSequences);
    std::vector<std::vector<int32_t>> ids;
    std::vector<std::vector<float>> expected, actual;
    for (int64_t s = 0; s < kSequences; ++s) {
      ids.push_back(RandomIds(10 + 11 * s, vocab, static_cast<uint32_t>(s)));
      expected.push_back(RunInChunks(*alone, ids[s], kContext));
      for (float v : expected.back()) ASSERT_TRUE(std::isfinite(v));
    }
    actual.resize(kSequences);
    std::mt19937 engine(1);
    for (bool more = true; more;) {
      more = false;
      StepBatch batch;
      std::vector<int64_t> members;
      for (int64_t s = 0; s < kSequences; ++s) {
        const auto done = static_cast<int64_t>(actual[s].size()) / vocab;
        const int64_t left = static_cast<int64_t>(ids[s].size()) - done;
        if (left == 0) continue;
        more = true;
        if (engine() % 3 == 0) continue;
        const int64_t count = std::min<int64_t>(left, engine() % 2 == 0 ? 1 : 1 + engine() % 20);
        batch.rows.push_back({.slot = (s + 4) % kSequences,
                              .start_position = done,
                              .tokens = absl::MakeConstSpan(ids[s]).subspan(done, count),
                              .logits = count});
        members.push_back(s);
      }
      std::vector<float> logits(batch.LogitsCount() * vocab);
      ASSERT_TRUE(mixed->Forward(batch, logits.data()).ok());
      auto at = logits.begin();
      for (size_t i = 0; i < members.size(); ++i) {
        const auto end = at + batch.rows[i].logits * vocab;
        actual[members[i]].insert(actual[members[i]].end(), at, end);
        at = end;
      }
    }
    for (int64_t s = 0; s < kSequences; ++s) EXPECT_TRUE(SameBits(actual[s], expected[s])) << s;
  }
}

TEST_P(ShapeTest, PrefillInChunksIsPrefillWhole) {
  const ModelFolder folder = RandomModel(GetParam().config, 6);
  const std::vector<int32_t> ids = RandomIds(kContext, GetParam().config.vocab_size, 3);
  for (InferDtype dtype : {InferDtype::kFloat32, InferDtype::kBfloat16}) {
    const auto runner = Load(folder, dtype, AvailableInferIsas().back());
    const std::vector<float> whole = RunInChunks(*runner, ids, kContext);
    for (int64_t chunk : {65, 17, 1}) {
      EXPECT_TRUE(SameBits(RunInChunks(*runner, ids, chunk, 1), whole)) << "chunk " << chunk;
    }
  }
}

std::vector<Shape> Shapes() {
  ModelConfig usual{.hidden_size = 96,
                    .num_hidden_layers = 2,
                    .vocab_size = 200,
                    .num_attention_heads = 6,
                    .num_key_value_heads = 2,
                    .intermediate_size = 130,
                    .max_position_embeddings = kContext};
  ModelConfig normed = usual;
  normed.qk_norm = true;
  normed.head_dim = 24;
  normed.tie_word_embeddings = false;
  ModelConfig odd = usual;
  odd.hidden_size = 50;
  odd.num_attention_heads = 5;
  odd.num_key_value_heads = 5;
  odd.intermediate_size = 77;
  odd.vocab_size = 67;
  ModelConfig minimind3 = usual;  // heads of 768 / 8
  minimind3.qk_norm = true;
  minimind3.hidden_size = 192;
  minimind3.num_attention_heads = 4;
  minimind3.head_dim = 96;
  minimind3.rms_norm_eps = 1e-6;
  ModelConfig wide_heads = usual;
  wide_heads.head_dim = 128;
  wide_heads.num_attention_heads = 2;
  ModelConfig moe = usual;
  moe.use_moe = true;
  ModelConfig many = normed;
  many.use_moe = true;
  many.n_routed_experts = 70;
  many.num_experts_per_tok = 3;
  many.n_shared_experts = 2;
  many.norm_topk_prob = false;
  many.intermediate_size = 31;
  ModelConfig alone = odd;
  alone.use_moe = true;
  alone.n_routed_experts = 3;
  alone.num_experts_per_tok = 1;
  alone.n_shared_experts = 0;
  ModelConfig moe3 = normed;
  moe3.use_moe = true;
  moe3.moe_family = MoeFamily::kMinimind3;
  moe3.moe_intermediate_size = 53;
  moe3.num_experts_per_tok = 1;
  moe3.n_shared_experts = 0;
  moe3.seq_aux = false;
  ModelConfig moe3_two = moe3;
  moe3_two.num_experts_per_tok = 2;
  moe3_two.moe_intermediate_size = 150;  // wider than a dense model's
  return {{"usual", usual},           {"qk_norm_untied", normed}, {"odd", odd},
          {"minimind3", minimind3},   {"wide_heads", wide_heads}, {"moe", moe},
          {"moe_many_experts", many}, {"moe_no_shared", alone},   {"moe3_top_1", moe3},
          {"moe3_top_2", moe3_two}};
}

INSTANTIATE_TEST_SUITE_P(Shapes, ShapeTest, ::testing::ValuesIn(Shapes()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(CpuRunner, HeadsWiderThanTheKernelsTakeAreRefusedByName) {
  ModelConfig config = Shapes()[0].config;
  config.head_dim = 512;
  const auto runner =
      Load(RandomModel(config, 5), InferDtype::kFloat32, AvailableInferIsas().back());
  for (const float v : RunInChunks(*runner, RandomIds(5, 200, 1), 5)) {
    ASSERT_TRUE(std::isfinite(v));
  }
  config.head_dim = 514;
  const auto model = LoadCpuModel(RandomModel(config, 5), InferDtype::kFloat32, kContext);
  EXPECT_EQ(model.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(model.status().message().find("head_dim is 514; the CPU kernels take at most 512"),
            std::string::npos)
      << model.status();
}

TEST(CpuRunner, ASlotIsReusedWithoutATrace) {
  const ModelFolder folder = RandomModel(Shapes()[0].config, 5);
  const auto runner = Load(folder, InferDtype::kBfloat16, AvailableInferIsas().back());
  const std::vector<int32_t> ids = RandomIds(20, 200, 1);
  const std::vector<float> fresh = RunInChunks(*runner, ids, 20);
  RunInChunks(*runner, RandomIds(100, 200, 2), 50);
  EXPECT_TRUE(SameBits(RunInChunks(*runner, ids, 20), fresh));
}

// With a gate of zeros all experts are equally likely.
TEST(CpuRunner, TheLowestExpertsWinATie) {
  ModelConfig config = Shapes()[0].config;
  config.use_moe = true;
  const auto logits = [&](const std::string& changed) {
    const ModelFolder folder =
        RandomModel(config, 5, [&](const std::string& name, std::vector<float>& values) {
          if (name.ends_with("mlp.gate.weight")) {
            std::fill(values.begin(), values.end(), 0.0f);
          } else if (name.find(changed) != std::string::npos) {
            for (float& value : values) value = -value;
          }
        });
    const auto runner = Load(folder, InferDtype::kFloat32, AvailableInferIsas().back());
    return RunInChunks(*runner, RandomIds(20, 200, 1), 20);
  };
  const std::vector<float> plain = logits("no such tensor");
  EXPECT_TRUE(SameBits(logits("experts.2.up_proj"), plain));
  EXPECT_TRUE(SameBits(logits("experts.3.up_proj"), plain));
  EXPECT_FALSE(SameBits(logits(".experts.0.up_proj"), plain));
  EXPECT_FALSE(SameBits(logits(".experts.1.up_proj"), plain));
}

}  // namespace
}  // namespace mindforge
