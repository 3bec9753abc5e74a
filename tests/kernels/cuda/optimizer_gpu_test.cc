// The gradient's norm, the verdict and AdamW on the device.
#include "tests/kernels/cuda/on_device.h"
#include "worker/kernels/cuda/train_kernels_cuda.h"

namespace mindforge {
namespace {

class OptimizerGpuTest : public GpuTest {};

const OptimizerKernels& Cpu() { return GetOptimizerKernels(DetectCpuIsa()); }

constexpr AdamWScalars kScalars{.gradient_scale = 0.5f,
                                .decay = 0.9999f,
                                .one_minus_beta1 = 0.1f,
                                .beta2 = 0.95f,
                                .one_minus_beta2 = 0.05f,
                                .step_size = 0.01f,
                                .inverse_bias2 = 1.5f,
                                .epsilon = 1e-8f};

TEST_F(OptimizerGpuTest, SumsSquaresByBlock) {
  for (const int64_t size : {1, 8191, 8192, 40001}) {
    for (const int64_t offset : {0, 1}) {
      const auto x = Random(size + 1, 1);
      const int64_t blocks = (size + kSquareBlock - 1) / kSquareBlock;
      std::vector<double> sums(blocks);
      Cpu().sum_squares({}, size, x.data() + offset, sums.data());
      const OnDevice<float> d_x(x);
      const OnDevice<double> d_sums(blocks);
      CudaOptimizerKernels().sum_squares({}, size, d_x.get() + offset, d_sums.get());
      const auto actual = d_sums.Host();
      for (int64_t i = 0; i < blocks; ++i) EXPECT_NEAR(actual[i], sums[i], 1e-6 * sums[i]);
    }
  }
}

TEST_F(OptimizerGpuTest, TheVerdictClipsAndRefusesWhatIsNotFinite) {
  const int64_t size = 5 * kSquareBlock - 7;
  const std::vector<double> sums = {1, 2, 3, 4, 6};  // a norm of 4
  const OnDevice<CudaUpdateVerdict> verdict(1);
  const auto judge = [&](const std::vector<double>& of, double scale, double clip) {
    const OnDevice<double> d_sums(of);
    CudaJudgeUpdate({}, size, d_sums.get(), scale, clip, verdict.get());
    return verdict.Host()[0];
  };
  CudaUpdateVerdict got = judge(sums, 0.5, 0);
  EXPECT_EQ(got.gradient_norm, 2);
  EXPECT_EQ(got.gradient_scale, 0.5f);
  EXPECT_EQ(got.apply, 1);
  EXPECT_EQ(judge(sums, 0.5, 3).gradient_scale, 0.5f);
  EXPECT_EQ(judge(sums, 0.5, 1).gradient_scale, static_cast<float>(0.5 * (1 / (2 + 1e-6))));
  EXPECT_EQ(judge({1, INFINITY, 3, 4, 6}, 1, 1).apply, 0);
  EXPECT_EQ(judge({1, 2, NAN, 4, 6}, 1, 0).apply, 0);
}

template <typename T>
struct Update {
  std::vector<float> p, m, v;
  std::vector<T> copy;
};

// Runs an update on the device; `offset` 1 leaves no 16-byte access.
template <typename T, typename F>
Update<T> Run(const Update<T>& from, const std::vector<float>& g, int64_t offset, F&& update) {
  const OnDevice<float> d_g(g), d_p(from.p), d_m(from.m), d_v(from.v);
  const OnDevice<T> d_copy(from.copy);
  update(d_g.get() + offset, d_p.get() + offset, d_m.get() + offset, d_v.get() + offset,
         d_copy.get() + offset);
  return {d_p.Host(), d_m.Host(), d_v.Host(), d_copy.Host()};
}

template <typename T>
void CheckUpdates(int64_t size, int64_t offset) {
  const auto g = Random(size, 1);
  Update<T> from{Random(size, 2), Random(size, 3, 0.1f), Random(size, 4, 0.1f),
                 std::vector<T>(static_cast<size_t>(size))};
  for (float& x : from.v) x *= x;
  const int64_t count = size - offset;
  Update<T> expected = from;
  Cpu().adamw({}, count, kScalars, g.data() + offset, expected.p.data() + offset,
              expected.m.data() + offset, expected.v.data() + offset, nullptr);
  const auto judged = [&](const CudaUpdateVerdict& verdict) {
    const OnDevice<CudaUpdateVerdict> d_verdict(std::vector<CudaUpdateVerdict>{verdict});
    AdamWScalars scalars = kScalars;
    scalars.gradient_scale = NAN;
    return Run(from, g, offset, [&](float* g, float* p, float* m, float* v, T* copy) {
      CudaAdamW({}, count, scalars, d_verdict.get(), g, p, m, v, copy);
    });
  };
  const Update<T> got = judged({1, kScalars.gradient_scale, 1});
  ExpectClose(got.p, expected.p, 1e-6);
  ExpectClose(got.m, expected.m, 1e-6);
  ExpectClose(got.v, expected.v, 1e-6);
  const auto rounded = Rounded<T>(got.p);
  EXPECT_TRUE(SameBits(std::vector<T>(rounded.begin() + offset, rounded.end()),
                       std::vector<T>(got.copy.begin() + offset, got.copy.end())));
  const Update<T> refused = judged({NAN, NAN, 0});
  EXPECT_TRUE(SameBits(refused.p, from.p) && SameBits(refused.m, from.m) &&
              SameBits(refused.v, from.v) && SameBits(refused.copy, from.copy));
  if constexpr (std::is_same_v<T, Bf16>) {
    const Update<T> plain =
        Run(from, g, offset, [&](float* g, float* p, float* m, float* v, T* copy) {
          CudaOptimizerKernels().adamw({}, count, kScalars, g, p, m, v, copy);
        });
    EXPECT_TRUE(SameBits(plain.p, got.p) && SameBits(plain.copy, got.copy));
  }
}

TEST_F(OptimizerGpuTest, AdamWUpdatesAsTheCpuDoesOrNotAtAll) {
  for (const int64_t size : {1, 5, 1024, 10007}) {
    for (const int64_t offset : {0, 1}) {
      SCOPED_TRACE(::testing::Message() << size << " from " << offset);
      CheckUpdates<Bf16>(size, offset);
      CheckUpdates<Half>(size, offset);
    }
  }
}

TEST_F(OptimizerGpuTest, AdamWWithoutACopy) {
  const int64_t size = 1000;
  const auto g = Random(size, 1);
  std::vector<float> p = Random(size, 2), m(size), v(size);
  const OnDevice<float> d_g(g), d_p(p), d_m(m), d_v(v);
  CudaOptimizerKernels().adamw({}, size, kScalars, d_g.get(), d_p.get(), d_m.get(), d_v.get(),
                               nullptr);
  Cpu().adamw({}, size, kScalars, g.data(), p.data(), m.data(), v.data(), nullptr);
  ExpectClose(d_p.Host(), p, 1e-6);
}

}  // namespace
}  // namespace mindforge
