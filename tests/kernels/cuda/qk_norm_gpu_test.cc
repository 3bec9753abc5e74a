// The norms of q's and k's heads on the device.
#include <tuple>

#include "tests/kernels/cuda/on_device.h"
#include "worker/kernels/cuda/train_kernels_cuda.h"

namespace mindforge {
namespace {

const TrainKernels<float>& Cpu() { return GetTrainKernels<float>(DetectCpuIsa()); }

template <typename T>
class QkNormGpuTest : public GpuTest {};
TYPED_TEST_SUITE(QkNormGpuTest, StorageTypes);

TYPED_TEST(QkNormGpuTest, NormsHeadsAndGoesBackward) {
  using T = TypeParam;
  for (const auto& [n, heads, kv_heads, d] :
       {std::tuple{1, 1, 1, 2}, std::tuple{70, 8, 2, 64}, std::tuple{37, 4, 4, 96},
        std::tuple{9, 3, 1, 42}, std::tuple{40, 2, 1, 256}, std::tuple{33, 5, 3, 40}}) {
    SCOPED_TRACE(::testing::Message()
                 << n << " tokens of " << heads << "+" << kv_heads << " heads " << d);
    const int64_t stride = int64_t{heads + 2 * kv_heads} * d, size = n * stride;
    const auto x = Random<T>(size, 1), dy = Random<T>(size, 2);
    const auto wq = Random(d, 3), wk = Random(d, 4);
    QkNormShape shape{n, heads, kv_heads, d, stride, 1e-5f, wq.data(), wk.data()};
    std::vector<float> y(size), dx = dy, dwq(d), dwk(d), partials(NormPartials(n) * 2 * d);
    Cpu().qk_norm({}, shape, x.data(), y.data());
    Cpu().qk_norm_backward({}, shape, x.data(), dx.data(), dwq.data(), dwk.data(), partials.data());
    const auto d_wq = Put<float>(wq), d_wk = Put<float>(wk);
    shape.q_weight = d_wq.get();
    shape.k_weight = d_wk.get();
    const auto d_x = Put<T>(x);
    const OnDevice<T> d_y(size);
    CudaTrainKernels<T>().qk_norm({}, shape, d_x.get(), d_y.get());
    ExpectRounded(d_y.Host(), y);
    std::vector<float> before;
    for (int run = 0; run < 2; ++run) {
      const auto d_dy = Put<T>(dy);
      const OnDevice<float> d_dwq(d), d_dwk(d), d_partials(NormPartials(n) * 2 * d);
      CudaTrainKernels<T>().qk_norm_backward({}, shape, d_x.get(), d_dy.get(), d_dwq.get(),
                                             d_dwk.get(), d_partials.get());
      ExpectRounded(d_dy.Host(), dx);
      ExpectClose(d_dwq.Host(), dwq);
      ExpectClose(d_dwk.Host(), dwk);
      if (run == 1) {
        EXPECT_TRUE(SameBits(before, d_dwq.Host()));
      }
      before = d_dwq.Host();
    }
  }
}

TYPED_TEST(QkNormGpuTest, NoTokensGiveNoGradient) {
  using T = TypeParam;
  const QkNormShape shape{0, 8, 2, 64, 768, 1e-5f, nullptr, nullptr};
  const OnDevice<float> d_dwq(64), d_dwk(64);
  CudaTrainKernels<T>().qk_norm({}, shape, nullptr, nullptr);
  CudaTrainKernels<T>().qk_norm_backward({}, shape, nullptr, nullptr, d_dwq.get(), d_dwk.get(),
                                         nullptr);
  EXPECT_EQ(d_dwq.Host(), std::vector<float>(64, 0.0f));
  EXPECT_EQ(d_dwk.Host(), std::vector<float>(64, 0.0f));
}

}  // namespace
}  // namespace mindforge
