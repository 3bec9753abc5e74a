// Folders as the reference's users have them, through the CPU engine to the reference's own tokens.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/model_folder.h"
#include "tests/infer/runner_harness.h"
#include "worker/infer/cpu_runner.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::Pointwise;

std::string CasePath(const std::string& name) {
  return std::string(std::getenv("MINDFORGE_TEST_DATA")) + "/cases/models/" + name;
}

struct Greedy {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
};

Greedy Continue(const ModelFolder& folder, std::vector<int32_t> ids, size_t count) {
  auto model = LoadCpuModel(folder, InferDtype::kFloat32, 64);
  MF_CHECK_OK(model);
  const auto runner = CpuRunner::Create(std::move(*model), {.isa = AvailableInferIsas().back(),
                                                            .slots = 1,
                                                            .max_context = 64,
                                                            .max_batch_tokens = 64,
                                                            .threads = 1});
  MF_CHECK_OK(runner);
  Greedy greedy;
  std::vector<float> logits(static_cast<size_t>((*runner)->vocab_size()));
  int64_t done = 0;
  while (greedy.tokens.size() < count) {
    StepBatch batch;
    batch.rows.push_back({.slot = 0,
                          .start_position = done,
                          .tokens = absl::MakeConstSpan(ids).subspan(done),
                          .logits = 1});
    MF_CHECK_OK((*runner)->Forward(batch, logits.data()));
    done = static_cast<int64_t>(ids.size());
    const auto best = std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit - *best));
    greedy.logprobs.push_back(static_cast<float>(-std::log(sum)));
    greedy.tokens.push_back(static_cast<int32_t>(best - logits.begin()));
    ids.push_back(greedy.tokens.back());
  }
  return greedy;
}

MATCHER(NearBy, "") { return std::abs(std::get<0>(arg) - std::get<1>(arg)) < 2e-5; }

// Its config.json has no field for the norms of q and k, which its weights hold.
TEST(ReferenceCases, MiniMind3sOwnFolderAnswersAsInPython) {
  const auto folder = OpenModelFolder(CasePath("minimind3"));
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_TRUE(folder->config.qk_norm);
  const Greedy greedy = Continue(*folder, {1, 5351, 938, 851, 1728, 1221}, 8);
  EXPECT_THAT(greedy.tokens, ElementsAre(91, 251, 2748, 4879, 4299, 5044, 5437, 2247));
  EXPECT_THAT(greedy.logprobs,
              Pointwise(NearBy(), {-7.219777f, -7.259767f, -7.430391f, -7.300834f, -7.254103f,
                                   -7.380064f, -7.29525f, -7.272997f}));
}

// It writes `type: yarn` for a formula of its own.
TEST(ReferenceCases, MiniMind2sScalingIsItsOwn) {
  const auto folder = OpenModelFolder(CasePath("minimind2-scaled"));
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(folder->config.EffectiveRopeScaling(), RopeScaling{});
  EXPECT_THAT(folder->warnings, ::testing::Contains(::testing::HasSubstr("rope_type: minimind")));
  // The template's rendering of a user's turn: long enough for the kinds of scaling to differ.
  const Greedy greedy = Continue(
      *folder, {1,   85,  736,  201,  59,  292,  389,  260, 3836, 1861, 501,  2,   201, 1,  320,
                275, 201, 4825, 1143, 909, 1749, 1419, 2,   201,  1,    1078, 538, 501, 201},
      4);
  EXPECT_THAT(greedy.tokens, ElementsAre(4040, 2932, 2725, 4499));
}

}  // namespace
}  // namespace mindforge
