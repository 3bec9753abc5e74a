// Addition with RMSNorm and its backward on the device.
#include <utility>

#include "tests/kernels/cuda/on_device.h"
#include "worker/kernels/cuda/train_kernels_cuda.h"

namespace mindforge {
namespace {

const std::vector<std::pair<int64_t, int64_t>> kSizes = {
    {1, 1}, {70, 43}, {65, 512}, {33, 640}, {40, 768}, {3, 1024}, {100, 1408}, {2, 2052}, {7, 4}};
constexpr float kEps = 1e-5f;

const TrainKernels<float>& Cpu() { return GetTrainKernels<float>(DetectCpuIsa()); }

template <typename T>
class NormGpuTest : public GpuTest {};
TYPED_TEST_SUITE(NormGpuTest, StorageTypes);

TYPED_TEST(NormGpuTest, AddsAndNorms) {
  using T = TypeParam;
  for (const auto& [n, c] : kSizes) {
    for (const bool with_delta : {true, false}) {
      SCOPED_TRACE(::testing::Message() << n << " x " << c << " delta " << with_delta);
      const auto residual = Random(n * c, 1), delta = Random<T>(n * c, 2), w = Random(c, 3);
      std::vector<float> h(n * c), rstd(n), y(n * c);
      Cpu().add_norm({}, n, c, residual.data(), with_delta ? delta.data() : nullptr, w.data(), kEps,
                     h.data(), rstd.data(), y.data());
      const auto d_residual = Put<float>(residual), d_w = Put<float>(w);
      const auto d_delta = Put<T>(delta);
      std::vector<T> before;
      for (int run = 0; run < 2; ++run) {
        const OnDevice<float> d_h(n * c), d_rstd(n);
        const OnDevice<T> d_y(n * c);
        CudaTrainKernels<T>().add_norm({}, n, c, d_residual.get(),
                                       with_delta ? d_delta.get() : nullptr, d_w.get(), kEps,
                                       d_h.get(), d_rstd.get(), d_y.get());
        ExpectClose(d_h.Host(), h);
        ExpectClose(d_rstd.Host(), rstd);
        ExpectRounded(d_y.Host(), y);
        if (run == 1) {
          EXPECT_TRUE(SameBits(before, d_y.Host()));
        }
        before = d_y.Host();
      }
      // In place.
      const OnDevice<float> d_rstd(n);
      const OnDevice<T> d_y(n * c);
      CudaTrainKernels<T>().add_norm({}, n, c, d_residual.get(),
                                     with_delta ? d_delta.get() : nullptr, d_w.get(), kEps,
                                     d_residual.get(), d_rstd.get(), d_y.get());
      ExpectClose(d_residual.Host(), h);
      EXPECT_TRUE(SameBits(before, d_y.Host()));
    }
  }
}

TYPED_TEST(NormGpuTest, GoesBackward) {
  using T = TypeParam;
  for (const auto& [n, c] : kSizes) {
    for (const bool accumulate : {true, false}) {
      SCOPED_TRACE(::testing::Message() << n << " x " << c << " accumulate " << accumulate);
      const auto h = Random(n * c, 1), dy = Random<T>(n * c, 2), w = Random(c, 3);
      const auto old = Random(n * c, 4);
      std::vector<float> rstd(n), y(n * c), dh = old, cast(n * c), dw(c);
      std::vector<float> partials(NormPartials(n) * c);
      Cpu().add_norm({}, n, c, h.data(), nullptr, w.data(), kEps, nullptr, rstd.data(), y.data());
      Cpu().norm_backward({}, n, c, dy.data(), h.data(), rstd.data(), w.data(), accumulate,
                          dh.data(), cast.data(), dw.data(), partials.data());
      const auto d_h = Put<float>(h), d_w = Put<float>(w), d_rstd = Put<float>(rstd);
      const auto d_dy = Put<T>(dy);
      std::vector<float> before;
      for (int run = 0; run < 2; ++run) {
        const OnDevice<float> d_dh(accumulate ? old : std::vector<float>(n * c, NAN));
        const OnDevice<float> d_dw(c), d_partials(NormPartials(n) * c);
        const OnDevice<T> d_cast(n * c);
        CudaTrainKernels<T>().norm_backward({}, n, c, d_dy.get(), d_h.get(), d_rstd.get(),
                                            d_w.get(), accumulate, d_dh.get(), d_cast.get(),
                                            d_dw.get(), d_partials.get());
        ExpectClose(d_dh.Host(), dh);
        ExpectRounded(d_cast.Host(), dh);
        ExpectClose(d_dw.Host(), dw);
        if (run == 1) {
          EXPECT_TRUE(SameBits(before, d_dw.Host()));
        }
        before = d_dw.Host();
      }
      const OnDevice<float> d_dh(old);
      CudaTrainKernels<T>().norm_backward({}, n, c, d_dy.get(), d_h.get(), d_rstd.get(), d_w.get(),
                                          accumulate, d_dh.get(), nullptr, nullptr, nullptr);
      ExpectClose(d_dh.Host(), dh);
    }
  }
}

// A bucket's padding must not show in the weight's gradient.
TYPED_TEST(NormGpuTest, RowsWithoutGradientBehindTheLastChangeNoBit) {
  using T = TypeParam;
  const int64_t n = 3000, padded = 7000, c = 512;
  auto dy = Random<T>(padded * c, 1);
  std::fill(dy.begin() + n * c, dy.end(), 0.0f);
  const auto d_dy = Put<T>(dy);
  const auto d_h = Put<float>(Random(padded * c, 2)), d_w = Put<float>(Random(c, 3));
  const OnDevice<float> d_rstd(std::vector<float>(padded, 0.7f));
  std::vector<float> before;
  for (const int64_t rows : {n, padded}) {
    const OnDevice<float> d_dh(padded * c), d_dw(c), d_partials(NormPartials(padded) * c);
    CudaTrainKernels<T>().norm_backward({}, rows, c, d_dy.get(), d_h.get(), d_rstd.get(), d_w.get(),
                                        false, d_dh.get(), nullptr, d_dw.get(), d_partials.get());
    if (rows == padded) {
      EXPECT_TRUE(SameBits(before, d_dw.Host()));
    }
    before = d_dw.Host();
  }
}

TYPED_TEST(NormGpuTest, NoRowsGiveNoGradient) {
  using T = TypeParam;
  const OnDevice<float> d_dw(8);
  CudaTrainKernels<T>().add_norm({}, 0, 8, nullptr, nullptr, nullptr, kEps, nullptr, nullptr,
                                 nullptr);
  CudaTrainKernels<T>().norm_backward({}, 0, 8, nullptr, nullptr, nullptr, nullptr, true, nullptr,
                                      nullptr, d_dw.get(), nullptr);
  EXPECT_EQ(d_dw.Host(), std::vector<float>(8, 0.0f));
}

}  // namespace
}  // namespace mindforge
