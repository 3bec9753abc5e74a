// Cross entropy and the sum of its losses on the device.
#include <utility>

#include "tests/kernels/cuda/on_device.h"
#include "worker/kernels/cuda/train_kernels_cuda.h"

namespace mindforge {
namespace {

template <typename T>
class CrossEntropyGpuTest : public GpuTest {};
TYPED_TEST_SUITE(CrossEntropyGpuTest, StorageTypes);

TYPED_TEST(CrossEntropyGpuTest, LogitsBecomeTheirGradient) {
  using T = TypeParam;
  for (const auto& [n, c] : {std::pair{1, 1}, std::pair{50, 43}, std::pair{70, 6400},
                             std::pair{9, 6401}, std::pair{3, 50048}, std::pair{5, 8}}) {
    for (const bool masked : {false, true}) {
      SCOPED_TRACE(::testing::Message() << n << " x " << c << " masked " << masked);
      const float scale = 0.125f;
      std::vector<float> logits = Random<T>(int64_t{n} * c, 1, 3);
      std::vector<int64_t> targets(n);
      std::vector<uint8_t> mask(n);
      for (int i = 0; i < n; ++i) {
        targets[i] = int64_t{i} * 977 % c;
        mask[i] = i % 3 != 1;
      }
      targets.back() = c - 1;
      const auto d_logits = Put<T>(logits), d_again = Put<T>(logits);
      const OnDevice<int64_t> d_targets(targets);
      const OnDevice<uint8_t> d_mask(mask);
      const OnDevice<float> d_loss(n);
      for (T* on_device : {d_logits.get(), d_again.get()}) {
        CudaTrainKernels<T>().cross_entropy({}, n, c, d_targets.get(),
                                            masked ? d_mask.get() : nullptr, scale, on_device,
                                            d_loss.get());
      }
      std::vector<float> loss(n);
      GetTrainKernels<float>(DetectCpuIsa())
          .cross_entropy({}, n, c, targets.data(), masked ? mask.data() : nullptr, scale,
                         logits.data(), loss.data());
      ExpectRounded(d_logits.Host(), logits);
      ExpectClose(d_loss.Host(), loss);
      EXPECT_TRUE(SameBits(d_logits.Host(), d_again.Host()));
    }
  }
}

TYPED_TEST(CrossEntropyGpuTest, LargeLogitsNeitherOverflowNorVanish) {
  using T = TypeParam;
  const int64_t c = 64;
  std::vector<float> logits(c, -30000.0f);
  logits[40] = 30000.0f;
  const auto d_logits = Put<T>(logits);
  const OnDevice<int64_t> d_targets(std::vector<int64_t>{40});
  const OnDevice<float> d_loss(1);
  CudaTrainKernels<T>().cross_entropy({}, 1, c, d_targets.get(), nullptr, 1, d_logits.get(),
                                      d_loss.get());
  EXPECT_EQ(Widened(d_logits.Host()), std::vector<float>(c, 0.0f));
  EXPECT_EQ(d_loss.Host()[0], 0);
}

class LossSumGpuTest : public GpuTest {};

TEST_F(LossSumGpuTest, SumsInOneOrderWhateverFollows) {
  for (const int64_t n : {0, 1, 1023, 5000}) {
    std::vector<float> loss = Random(n, 1);
    double expected = 0;
    for (const float x : loss) expected += double{x};
    std::vector<double> sums;
    for (const int64_t behind : {0, 3000}) {
      loss.resize(static_cast<size_t>(n + behind), 0.0f);
      const OnDevice<float> d_loss(loss), d_scaled(1);
      const OnDevice<double> d_sum(1);
      CudaSumLosses({}, n + behind, d_loss.get(), 0.5, d_sum.get(), d_scaled.get());
      CudaSumLosses({}, n + behind, d_loss.get(), 0.5, d_sum.get(), nullptr);
      sums.push_back(d_sum.Host()[0]);
      EXPECT_NEAR(sums.back(), expected, 1e-9 * static_cast<double>(n));
      EXPECT_EQ(d_scaled.Host()[0], static_cast<float>(0.5 * sums.back()));
    }
    EXPECT_EQ(sums[0], sums[1]);
  }
}

}  // namespace
}  // namespace mindforge
