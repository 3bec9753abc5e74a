// Dropout on the device: the CPU column's bits.
#include "tests/kernels/cuda/on_device.h"
#include "worker/kernels/cuda/train_kernels_cuda.h"

namespace mindforge {
namespace {

const TrainKernels<float>& Cpu() { return GetTrainKernels<float>(DetectCpuIsa()); }

DropoutSite Site(double p) {
  return {.key = 0x123456789abcdef0,
          .stream = 7 * kDropoutIndices,
          .threshold = static_cast<uint32_t>(p * 0x1p32),
          .scale = static_cast<float>(1 / (1 - p))};
}

template <typename T>
class DropoutGpuTest : public GpuTest {};
TYPED_TEST_SUITE(DropoutGpuTest, StorageTypes);

TYPED_TEST(DropoutGpuTest, DropsWhatTheCpuDrops) {
  using T = TypeParam;
  const std::vector<int32_t> rows = {0, 0, 3, 3, 900}, positions = {0, 1, 0, 70, 31000};
  const OnDevice<int32_t> d_rows(rows), d_positions(positions);
  const auto n = static_cast<int64_t>(rows.size());
  for (const int64_t c : {1, 20, 64, 150, 512, 1000, 1027}) {
    SCOPED_TRACE(c);
    const auto x = Random<T>(n * c, 1);
    std::vector<float> y(n * c);
    Cpu().dropout({}, n, c, {rows.data(), positions.data()}, Site(0.3), 11, x.data(), y.data());
    const auto d_x = Put<T>(x);
    CudaTrainKernels<T>().dropout({}, n, c, {d_rows.get(), d_positions.get()}, Site(0.3), 11,
                                  d_x.get(), d_x.get());
    EXPECT_TRUE(SameBits(d_x.Host(), Rounded<T>(y)));
  }
}

TYPED_TEST(DropoutGpuTest, DropsTheSameScores) {
  const int64_t batch = 2, heads = 3;
  for (const int64_t length : {70, 72}) {
    std::vector<float> expected(batch * heads * length * length);
    Cpu().dropout_scores({}, batch, heads, length, Site(0.5), expected.data());
    const OnDevice<float> out(static_cast<int64_t>(expected.size()));
    CudaTrainKernels<TypeParam>().dropout_scores({}, batch, heads, length, Site(0.5), out.get());
    EXPECT_TRUE(SameBits(out.Host(), expected));
  }
}

TYPED_TEST(DropoutGpuTest, DropsTheSameOnTheWayToExpertsAndBack) {
  using T = TypeParam;
  const std::vector<int32_t> rows = {0, 0, 4}, positions = {0, 9, 2};
  const std::vector<int32_t> tokens = {1, -1, 0, 2, 0, 1, 2}, experts = {0, 0, 1, 1, 2, 2, 2};
  const std::vector<int32_t> slots = {2, 4, 0, 5, 6, 3}, chosen = {1, 2, 0, 2, 2, 1};
  const OnDevice<int32_t> d_rows(rows), d_positions(positions), d_tokens(tokens), d_slots(slots);
  const OnDevice<int32_t> d_experts(experts), d_chosen(chosen);
  const DropoutSite site = Site(0.4);
  for (const int64_t c : {37, 136}) {
    SCOPED_TRACE(c);
    const auto x = Random<T>(3 * c, 1), base = Random<T>(3 * c, 2);
    const auto d_x = Put<T>(x), d_base = Put<T>(base);
    RowGather gather{7, c, tokens.data(), &site, {rows.data(), positions.data()}, experts.data()};
    std::vector<float> gathered(7 * c), sums(3 * c);
    Cpu().gather_rows({}, gather, x.data(), gathered.data());
    gather.tokens = d_tokens.get();
    gather.places = {d_rows.get(), d_positions.get()};
    gather.experts = d_experts.get();
    const OnDevice<T> d_gathered(7 * c), d_sums(3 * c);
    CudaTrainKernels<T>().gather_rows({}, gather, d_x.get(), d_gathered.get());
    EXPECT_TRUE(SameBits(d_gathered.Host(), Rounded<T>(gathered)));

    const std::vector<float> from = Widened(Rounded<T>(gathered));
    RowCombine<float> combine;
    combine.tokens = 3;
    combine.columns = c;
    combine.top_k = 2;
    combine.slots = slots.data();
    combine.x = from.data();
    combine.base = base.data();
    combine.dropout = &site;
    combine.places = {rows.data(), positions.data()};
    combine.chosen = chosen.data();
    Cpu().combine_rows({}, combine, sums.data());
    RowCombine<T> d_combine;
    d_combine.tokens = 3;
    d_combine.columns = c;
    d_combine.top_k = 2;
    d_combine.slots = d_slots.get();
    d_combine.x = d_gathered.get();
    d_combine.base = d_base.get();
    d_combine.dropout = &site;
    d_combine.places = gather.places;
    d_combine.chosen = d_chosen.get();
    CudaTrainKernels<T>().combine_rows({}, d_combine, d_sums.get());
    ExpectRounded(d_sums.Host(), sums);
  }
}

}  // namespace
}  // namespace mindforge
