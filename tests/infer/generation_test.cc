// The engine on the real CPU runner: what a request gets does not depend on its neighbours.
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/fakes/model_folder.h"
#include "tests/fakes/recording_sink.h"
#include "tests/fakes/temp_dir.h"
#include "worker/infer/engine.h"
#include "worker/infer/runner_factory.h"

namespace mindforge {
namespace {

ModelConfig SmallConfig() {
  return {.hidden_size = 64,
          .num_hidden_layers = 2,
          .vocab_size = 300,
          .num_attention_heads = 4,
          .num_key_value_heads = 2,
          .intermediate_size = 128,
          .max_position_embeddings = 256};
}

ModelConfig SmallMixture() {
  ModelConfig config = SmallConfig();
  config.use_moe = true;
  return config;
}

std::unique_ptr<Engine> StartEngine(const std::string& path, RunnerDtype dtype, int64_t slots) {
  auto runner = MakeModelRunner(
      {.model_folder = path, .dtype = dtype, .slots = slots, .max_context = 256, .threads = 2});
  MF_CHECK_OK(runner);
  return std::make_unique<Engine>(std::move(*runner), "w",
                                  EngineOptions{.prefill_chunk_tokens = 16}, nullptr);
}

// Requests of every kind: greedy and sampled, short and long, scored.
std::vector<GenerationRequest> Requests() {
  std::vector<GenerationRequest> requests;
  for (int32_t i = 0; i < 24; ++i) {
    GenerationRequest request;
    for (int32_t t = 0; t <= i * 5 % 60; ++t) request.prompt.push_back((t * 31 + i) % 300);
    request.sampling.seed = i;
    if (i % 3 == 0) request.sampling.temperature = 0;
    if (i % 3 == 1) request.sampling = {.temperature = 0.85, .top_k = 50, .top_p = 0.85, .seed = 5};
    if (i % 4 == 0) request.sampling.repetition_penalty = 1.2;
    request.stopping.max_new_tokens = 5 + i * 3 % 20;
    request.logprobs = true;
    request.prompt_logprobs = i % 2 == 0;
    requests.push_back(request);
  }
  return requests;
}

void ExpectSame(const RecordingSink& a, const RecordingSink& b) {
  ASSERT_EQ(a.token_ids(), b.token_ids());
  const auto left = a.tokens(), right = b.tokens();
  for (size_t i = 0; i < left.size(); ++i) EXPECT_EQ(left[i].logprob, right[i].logprob);
  const auto prompt_left = a.prompt_scores(), prompt_right = b.prompt_scores();
  ASSERT_EQ(prompt_left.size(), prompt_right.size());
  for (size_t i = 0; i < prompt_left.size(); ++i) {
    EXPECT_EQ(prompt_left[i].token.logprob, prompt_right[i].token.logprob);
  }
}

void ExpectTheSameAloneAndInACrowd(const ModelConfig& config, RunnerDtype dtype) {
  TempDir folder;
  WriteRandomModelFolder(folder.path(), config, 9);
  const auto crowd = StartEngine(folder.path(), dtype, 7);
  const auto alone = StartEngine(folder.path(), dtype, 1);
  std::vector<std::shared_ptr<RecordingSink>> together;
  for (const GenerationRequest& request : Requests()) {
    together.push_back(std::make_shared<RecordingSink>());
    ASSERT_TRUE(crowd->Submit(request, together.back()).ok());
  }
  size_t i = 0;
  for (const GenerationRequest& request : Requests()) {
    auto single = std::make_shared<RecordingSink>();
    ASSERT_TRUE(alone->Submit(request, single).ok());
    single->AwaitFinished();
    together[i]->AwaitFinished();
    ExpectSame(*single, *together[i]);
    ++i;
  }
}

TEST(Generation, ARequestGetsTheSameTokensAndLogprobsAloneAndInACrowd) {
  ExpectTheSameAloneAndInACrowd(SmallConfig(), RunnerDtype::kFloat32);
  ExpectTheSameAloneAndInACrowd(SmallConfig(), RunnerDtype::kBfloat16);
}

TEST(Generation, AMixtureOfExpertsDoesNotMixRequests) {
  ExpectTheSameAloneAndInACrowd(SmallMixture(), RunnerDtype::kFloat32);
  ExpectTheSameAloneAndInACrowd(SmallMixture(), RunnerDtype::kBfloat16);
}

// What was generated, sent again as a prompt, scores as it did when it was drawn.
TEST(Generation, TeacherForcingScoresWhatWasDrawn) {
  TempDir folder;
  WriteRandomModelFolder(folder.path(), SmallConfig(), 9);
  const auto engine = StartEngine(folder.path(), RunnerDtype::kBfloat16, 4);
  GenerationRequest request = Requests()[7];
  auto drawn = std::make_shared<RecordingSink>();
  ASSERT_TRUE(engine->Submit(request, drawn).ok());
  drawn->AwaitFinished();
  GenerationRequest forced = request;
  const std::vector<int32_t> ids = drawn->token_ids();
  forced.prompt.insert(forced.prompt.end(), ids.begin(), ids.end());
  forced.prompt_logprobs = true;
  forced.stopping.max_new_tokens = 0;
  auto scored = std::make_shared<RecordingSink>();
  ASSERT_TRUE(engine->Submit(forced, scored).ok());
  const FinishedInfo end = scored->AwaitFinished();
  EXPECT_EQ(end.generated_tokens, 0);
  const auto scores = scored->prompt_scores();
  ASSERT_EQ(scores.size() + 1, forced.prompt.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(scores[request.prompt.size() - 1 + i].token.logprob, drawn->tokens()[i].logprob);
  }
}

TEST(Generation, TheFactorySaysWhatIsWrong) {
  TempDir folder;
  WriteRandomModelFolder(folder.path(), SmallConfig(), 9);
  RunnerOptions options{.model_folder = folder.path()};
  options.device = "tpu:0";
  EXPECT_EQ(MakeModelRunner(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.device = "cpu";
  options.slots = 0;
  EXPECT_EQ(MakeModelRunner(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.slots = 1;
  options.model_folder = "/nowhere";
  EXPECT_EQ(MakeModelRunner(options).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace mindforge
