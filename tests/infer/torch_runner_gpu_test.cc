// The serving backend on a GPU. Skips, saying so, where there is no GPU.
#include <ATen/ATen.h>

#include "gtest/gtest.h"
#include "tests/infer/torch_runner_checks.h"

namespace mindforge {
namespace {

class TorchRunnerGpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "SKIPPED: this machine or build has no GPU";
  }
};

TEST_F(TorchRunnerGpuTest, LogitsMatchTheReferences) { ExpectTheReferencesLogits("cuda:0", 2e-4f); }

TEST_F(TorchRunnerGpuTest, AMixedBatchAgreesWithTheCpuKernels) {
  ExpectMixedBatchesToAgreeWithTheCpuKernels("cuda:0", 5e-4f);
}

TEST_F(TorchRunnerGpuTest, Bfloat16StaysNear) { ExpectBfloat16ToStayNear("cuda:0"); }

}  // namespace
}  // namespace mindforge
