// The LibTorch backend, run on the CPU. torch_runner_gpu_test.cc runs the same checks on a GPU.
#include "worker/infer/torch_runner.h"

#include <ATen/Context.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/infer/torch_runner_checks.h"

namespace mindforge {
namespace {

TEST(TorchRunner, LogitsMatchTheReferences) { ExpectTheReferencesLogits("cpu", 2e-5f); }

TEST(TorchRunner, AMixedBatchAgreesWithTheCpuKernels) {
  ExpectMixedBatchesToAgreeWithTheCpuKernels("cpu", 1e-4f);
}

// All experts equally likely: the first two are taken, so the others' weights do not matter.
TEST(TorchRunner, TheLowestExpertsWinATie) {
  ModelConfig config = NormedConfig();
  config.use_moe = true;
  config.n_routed_experts = 40;
  const auto logits = [&](const std::string& changed) {
    const ModelFolder folder =
        RandomModel(config, 5, [&](const std::string& name, std::vector<float>& values) {
          const float factor = name.ends_with("mlp.gate.weight")         ? 0
                               : name.find(changed) != std::string::npos ? -1
                                                                         : 1;
          for (float& value : values) value *= factor;
        });
    return RunInChunks(*Torch(folder, Options()), {1, 2, 3, 4, 5, 6}, 6);
  };
  const std::vector<float> plain = logits("no such tensor");
  for (int64_t expert : {0, 1, 2, 17, 39}) {
    const auto other = logits("experts." + std::to_string(expert) + ".up_proj");
    EXPECT_EQ(other == plain, expert > 1) << expert;
  }
}

TEST(TorchRunner, Bfloat16StaysNear) { ExpectBfloat16ToStayNear("cpu"); }

// It would plan anew for each length: 45 ms a token instead of 5 on an H200.
TEST(TorchRunner, DoesNotUseCudnnsAttention) {
  at::globalContext().setSDPUseCuDNN(true);
  ASSERT_TRUE(MakeTorchRunner(GoldenModel("dense").model(), Options()).ok());
  EXPECT_FALSE(at::globalContext().userEnabledCuDNNSDP());
}

TEST(TorchRunner, ADeviceThatIsNotThereIsAnError) {
  EXPECT_FALSE(MakeTorchRunner(GoldenModel("dense").model(), Options("cuda:63")).ok());
}

}  // namespace
}  // namespace mindforge
