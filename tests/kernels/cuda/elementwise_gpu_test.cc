// RoPE, SwiGLU and casts on the device.
#include <tuple>
#include <utility>

#include "tests/kernels/cuda/on_device.h"
#include "worker/kernels/cuda/train_kernels_cuda.h"

namespace mindforge {
namespace {

const TrainKernels<float>& Cpu() { return GetTrainKernels<float>(DetectCpuIsa()); }

template <typename T>
class ElementwiseGpuTest : public GpuTest {};
TYPED_TEST_SUITE(ElementwiseGpuTest, StorageTypes);

TYPED_TEST(ElementwiseGpuTest, RopeTurnsThereAndBack) {
  using T = TypeParam;
  for (const auto& [n, heads, d] : {std::tuple{131, 10, 64}, std::tuple{17, 3, 96},
                                    std::tuple{5, 1, 6}, std::tuple{3, 40, 256}}) {
    for (const float sign : {1.0f, -1.0f}) {
      SCOPED_TRACE(::testing::Message() << n << " tokens of " << heads << " x " << d);
      const int64_t stride = int64_t{heads + 2} * d, half = d / 2, positions = 40;
      auto x = Random<T>(n * stride, 1);
      const auto cos = Random(positions * half, 2), sin = Random(positions * half, 3);
      std::vector<int32_t> at(n);
      for (int i = 0; i < n; ++i) at[i] = i * 7 % static_cast<int>(positions);
      const auto d_cos = Put<float>(cos), d_sin = Put<float>(sin);
      const OnDevice<int32_t> d_at(at);
      const auto d_x = Put<T>(x);
      CudaTrainKernels<T>().rope({}, n, d_at.get(), heads, d, stride, d_cos.get(), d_sin.get(),
                                 sign, d_x.get());
      Cpu().rope({}, n, at.data(), heads, d, stride, cos.data(), sin.data(), sign, x.data());
      ExpectRounded(d_x.Host(), x);
    }
  }
}

TYPED_TEST(ElementwiseGpuTest, SwiGluAndItsBackward) {
  using T = TypeParam;
  for (const auto& [n, c] : {std::pair{1, 1}, std::pair{33, 21}, std::pair{257, 1408},
                             std::pair{20, 8}, std::pair{3, 4096}}) {
    for (const bool scaled : {false, true}) {
      SCOPED_TRACE(::testing::Message() << n << " x " << c << " scaled " << scaled);
      const int64_t size = int64_t{n} * c;
      const auto gate_up = Random<T>(2 * size, 1, 4), da = Random<T>(size, 2);
      const auto scale = Random(n, 3);
      std::vector<float> a(size), again(size), gradient = gate_up, d_scale(n);
      const float* row_scale = scaled ? scale.data() : nullptr;
      Cpu().swiglu({}, n, c, row_scale, gate_up.data(), a.data());
      Cpu().swiglu_backward({}, n, c, row_scale, da.data(), gradient.data(), again.data(),
                            scaled ? d_scale.data() : nullptr);
      const auto d_row_scale = Put<float>(scale);
      const float* on_device = scaled ? d_row_scale.get() : nullptr;
      const auto d_gate_up = Put<T>(gate_up);
      const OnDevice<T> d_a(size);
      const OnDevice<float> d_d_scale(n);
      CudaTrainKernels<T>().swiglu({}, n, c, on_device, d_gate_up.get(), d_a.get());
      ExpectRounded(d_a.Host(), a);
      const auto in_place = Put<T>(da);
      CudaTrainKernels<T>().swiglu_backward({}, n, c, on_device, in_place.get(), d_gate_up.get(),
                                            in_place.get(), scaled ? d_d_scale.get() : nullptr);
      ExpectRounded(d_gate_up.Host(), gradient);
      ExpectRounded(in_place.Host(), again);
      if (scaled) ExpectClose(d_d_scale.Host(), d_scale);
    }
  }
}

TYPED_TEST(ElementwiseGpuTest, CastsRoundToNearestEven) {
  using T = TypeParam;
  for (const int64_t size : {1, 3, 4, 4095, 4096, 10001}) {
    for (const int64_t offset : {0, 1}) {  // 1: no access of 16 bytes is possible
      const auto x = Random(size, 1, 100);
      const OnDevice<float> d_x(Random(size + 1, 1, 100)), d_back(size + 1);
      const OnDevice<T> d_y(size + 1);
      CudaTrainKernels<T>().from_float({}, size, d_x.get() + offset, d_y.get() + offset);
      CudaTrainKernels<T>().to_float({}, size, d_y.get() + offset, d_back.get() + offset);
      const auto from = d_x.Host();
      const auto expected = Rounded<T>({from.begin() + offset, from.begin() + offset + size});
      const auto y = d_y.Host();
      EXPECT_TRUE(SameBits({y.begin() + offset, y.begin() + offset + size}, expected)) << size;
      const auto back = d_back.Host();
      EXPECT_TRUE(
          SameBits({back.begin() + offset, back.begin() + offset + size}, Widened(expected)))
          << size;
    }
  }
}

TYPED_TEST(ElementwiseGpuTest, NothingIsNoWork) {
  using T = TypeParam;
  const auto& kernels = CudaTrainKernels<T>();
  kernels.rope({}, 0, nullptr, 8, 64, 512, nullptr, nullptr, 1, nullptr);
  kernels.swiglu({}, 0, 64, nullptr, nullptr, nullptr);
  kernels.swiglu_backward({}, 0, 64, nullptr, nullptr, nullptr, nullptr, nullptr);
  kernels.from_float({}, 0, nullptr, nullptr);
  kernels.to_float({}, 0, nullptr, nullptr);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

}  // namespace
}  // namespace mindforge
