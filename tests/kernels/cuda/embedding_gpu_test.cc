// The embedding and its backward on the device.
#include <tuple>

#include "tests/kernels/cuda/on_device.h"
#include "worker/kernels/cuda/train_kernels_cuda.h"

namespace mindforge {
namespace {

class EmbeddingGpuTest : public GpuTest {};

const TrainKernels<float>& Cpu() { return GetTrainKernels<float>(DetectCpuIsa()); }

// Half of them one id, the others anywhere: runs of one row and of many chunks.
std::vector<int64_t> Ids(int64_t n, int64_t vocab) {
  std::mt19937_64 generator(5);
  std::vector<int64_t> ids(n);
  for (int64_t& id : ids) {
    const uint64_t draw = generator();
    id = draw % 2 == 0 ? vocab - 1 : static_cast<int64_t>(draw / 2 % vocab);
  }
  return ids;
}

TEST_F(EmbeddingGpuTest, LooksUpAndAddsEachRowsGradientToItsId) {
  for (const auto& [n, c, vocab] :
       {std::tuple{1, 1, 1}, std::tuple{64, 512, 2}, std::tuple{65, 4, 1}, std::tuple{1000, 43, 17},
        std::tuple{5000, 640, 6400}, std::tuple{4097, 132, 2}, std::tuple{0, 8, 5}}) {
    SCOPED_TRACE(::testing::Message() << n << " x " << c << " of " << vocab);
    const auto ids = Ids(n, vocab);
    const auto table = Random(int64_t{vocab} * c, 1), dh = Random(int64_t{n} * c, 2);
    std::vector<float> h(dh.size()), gradient = table;
    Cpu().embed({}, n, c, ids.data(), table.data(), h.data());
    Cpu().embed_backward({}, n, c, ids.data(), dh.data(), gradient.data());
    const OnDevice<int64_t> d_ids(ids);
    const auto d_table = Put<float>(table), d_dh = Put<float>(dh);
    const OnDevice<float> d_h(int64_t{n} * c);
    CudaTrainKernels<float>().embed({}, n, c, d_ids.get(), d_table.get(), d_h.get());
    EXPECT_TRUE(SameBits(d_h.Host(), h));
    std::vector<float> before;
    for (int run = 0; run < 2; ++run) {
      const OnDevice<char> workspace(CudaEmbedBackwardWorkspace(n, c, vocab));
      const auto d_gradient = Put<float>(table);
      CudaEmbedBackward({}, n, c, vocab, d_ids.get(), d_dh.get(), d_gradient.get(),
                        workspace.get());
      ExpectClose(d_gradient.Host(), gradient);
      if (run == 1) {
        EXPECT_TRUE(SameBits(before, d_gradient.Host()));
      }
      before = d_gradient.Host();
    }
  }
}

}  // namespace
}  // namespace mindforge
