// Routing and the moves of rows between tokens and slots on the device.
#include <tuple>

#include "tests/kernels/cuda/on_device.h"
#include "worker/kernels/cuda/train_kernels_cuda.h"

namespace mindforge {
namespace {

const TrainKernels<float>& Cpu() { return GetTrainKernels<float>(DetectCpuIsa()); }

template <typename T>
class MoeGpuTest : public GpuTest {};
TYPED_TEST_SUITE(MoeGpuTest, StorageTypes);

TYPED_TEST(MoeGpuTest, RoutesAndGoesBackwardAsTheCpuDoes) {
  using T = TypeParam;
  for (const auto& [n, hidden, experts, top_k, normalize] :
       {std::tuple{1, 4, 1, 1, true}, std::tuple{70, 640, 4, 2, true},
        std::tuple{300, 43, 5, 1, false}, std::tuple{33, 768, 70, 8, true},
        std::tuple{9, 132, 33, 33, false}, std::tuple{70, 64, 4, 1, true}}) {
    SCOPED_TRACE(::testing::Message()
                 << n << " x " << hidden << ", " << top_k << " of " << experts);
    const RouterShape shape{n, hidden, experts, top_k, normalize};
    const int64_t choices = int64_t{n} * top_k, rows = 3;
    const auto x = Random<T>(int64_t{n} * hidden, 1);
    const auto w = Random(int64_t{experts} * hidden, 2, 0.1f);
    std::vector<float> scores(int64_t{n} * experts), weights(choices);
    std::vector<int32_t> chosen(choices);
    Cpu().route({}, shape, x.data(), w.data(), scores.data(), chosen.data(), weights.data());
    const auto d_x = Put<T>(x);
    const auto d_w = Put<float>(w);
    const OnDevice<float> d_scores(int64_t{n} * experts), d_weights(choices);
    const OnDevice<int32_t> d_chosen(choices);
    const auto& kernels = CudaTrainKernels<T>();
    kernels.route({}, shape, d_x.get(), d_w.get(), d_scores.get(), d_chosen.get(), d_weights.get());
    ExpectClose(d_scores.Host(), scores);
    ExpectClose(d_weights.Host(), weights);
    EXPECT_EQ(d_chosen.Host(), chosen);

    std::vector<int32_t> slots(choices), row_of(n);
    for (int64_t i = 0; i < choices; ++i) slots[i] = static_cast<int32_t>(choices - 1 - i);
    for (int i = 0; i < n; ++i) row_of[i] = i % static_cast<int>(rows);
    const auto d_weight = Random(choices, 3), balance = Random(rows * experts, 4);
    std::vector<float> d_logits(int64_t{n} * experts), dw(int64_t{experts} * hidden);
    RouterGradient gradient{scores.data(),   chosen.data(),  weights.data(), slots.data(),
                            d_weight.data(), balance.data(), row_of.data()};
    Cpu().route_backward({}, shape, gradient, d_logits.data());
    Cpu().router_weight_gradient({}, shape, d_logits.data(), x.data(), dw.data());
    const auto g_scores = Put<float>(scores), g_weights = Put<float>(weights);
    const auto g_d_weight = Put<float>(d_weight), g_balance = Put<float>(balance);
    const OnDevice<int32_t> g_slots(slots), g_rows(row_of), g_chosen(chosen);
    gradient = {g_scores.get(),   g_chosen.get(),  g_weights.get(), g_slots.get(),
                g_d_weight.get(), g_balance.get(), g_rows.get()};
    const OnDevice<float> g_logits(int64_t{n} * experts), g_dw(int64_t{experts} * hidden);
    kernels.route_backward({}, shape, gradient, g_logits.get());
    ExpectClose(g_logits.Host(), d_logits);
    const auto in = Put<float>(d_logits);
    kernels.router_weight_gradient({}, shape, in.get(), d_x.get(), g_dw.get());
    ExpectClose(g_dw.Host(), dw);
  }
}

TYPED_TEST(MoeGpuTest, TiesGoToTheLowestExpert) {
  using T = TypeParam;
  const RouterShape shape{.tokens = 1, .hidden = 4, .experts = 40, .top_k = 3, .normalize = true};
  std::vector<float> w(160, 0.5f);
  for (int i = 0; i < 4; ++i) w[4 * 36 + i] = 2;  // expert 36 alone is better
  const auto d_x = Put<T>({1, 1, 1, 1});
  const auto d_w = Put<float>(w);
  const OnDevice<float> scores(40), weights(3);
  const OnDevice<int32_t> chosen(3);
  CudaTrainKernels<T>().route({}, shape, d_x.get(), d_w.get(), scores.get(), chosen.get(),
                              weights.get());
  EXPECT_EQ(chosen.Host(), (std::vector<int32_t>{36, 0, 1}));
}

TYPED_TEST(MoeGpuTest, NoTokensTeachTheRouterNothing) {
  const RouterShape shape{.tokens = 0, .hidden = 8, .experts = 2, .top_k = 1};
  const OnDevice<float> dw(16);
  CudaTrainKernels<TypeParam>().route({}, shape, nullptr, nullptr, nullptr, nullptr, nullptr);
  CudaTrainKernels<TypeParam>().route_backward({}, shape, {}, nullptr);
  CudaTrainKernels<TypeParam>().router_weight_gradient({}, shape, nullptr, nullptr, dw.get());
  EXPECT_EQ(dw.Host(), std::vector<float>(16, 0.0f));
}

TYPED_TEST(MoeGpuTest, RowsGoToTheirSlotsAndComeBackSummed) {
  using T = TypeParam;
  const std::vector<int32_t> tokens = {1, -1, 0, 2, 0, 1, 2}, slots = {2, 4, 0, 5, 6, 3};
  const OnDevice<int32_t> d_tokens(tokens), d_slots(slots);
  for (const int64_t c : {37, 640}) {
    SCOPED_TRACE(c);
    const auto x = Random<T>(3 * c, 1), base = Random<T>(3 * c, 2);
    const auto router = Random(2 * c, 3), d_logits = Random(6, 4);
    const auto d_x = Put<T>(x), d_base = Put<T>(base);
    const auto d_router = Put<float>(router), d_d_logits = Put<float>(d_logits);
    RowGather gather;
    gather.slots = 7;
    gather.columns = c;
    gather.tokens = tokens.data();
    std::vector<float> gathered(7 * c), sums = base;
    Cpu().gather_rows({}, gather, x.data(), gathered.data());
    gather.tokens = d_tokens.get();
    const OnDevice<T> d_gathered(7 * c);
    CudaTrainKernels<T>().gather_rows({}, gather, d_x.get(), d_gathered.get());
    EXPECT_TRUE(SameBits(d_gathered.Host(), Rounded<T>(gathered)));

    RowCombine<float> combine;
    combine.tokens = 3;
    combine.columns = c;
    combine.top_k = 2;
    combine.slots = slots.data();
    combine.x = gathered.data();
    combine.base = base.data();
    combine.experts = 2;
    combine.router = router.data();
    combine.d_logits = d_logits.data();
    Cpu().combine_rows({}, combine, sums.data());
    RowCombine<T> on_device;
    on_device.tokens = 3;
    on_device.columns = c;
    on_device.top_k = 2;
    on_device.slots = d_slots.get();
    on_device.x = d_gathered.get();
    on_device.base = d_base.get();
    on_device.experts = 2;
    on_device.router = d_router.get();
    on_device.d_logits = d_d_logits.get();
    CudaTrainKernels<T>().combine_rows({}, on_device, d_base.get());
    ExpectRounded(d_base.Host(), sums);
  }
}

}  // namespace
}  // namespace mindforge
