// The bits of the decoding kernels of every column that this processor has, under the name of their
// numerics. A hash that moves means another name in worker/kernels/infer_kernels_tables.h: streams
// are continued on another worker only under an equal one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "tests/kernels/bits.h"
#include "worker/kernels/infer_kernels.h"

namespace mindforge {
namespace {

const std::map<std::string, uint64_t>& RecordedHashes() {
  static const std::map<std::string, uint64_t> hashes = {
      {"cpu-f32-1", 0x40ef92026f0ce9a4},
      {"cpu-bf16-fma-1", 0x167caf5b470db9de},
      {"cpu-bf16-dot-1", 0x1a464b1df9733d50},
  };
  return hashes;
}

// Elements of E, the table's: float or bfloat16's bits.
template <typename E>
std::vector<E> Fixed(int64_t size, uint64_t seed, float scale = 1) {
  if constexpr (sizeof(E) == 4) {
    return FixedFloats(size, seed, scale);
  } else {
    return FixedBf16Bits(size, seed, scale);
  }
}

template <typename E>
class KernelRun {
 public:
  explicit KernelRun(InferIsa isa) : kernels_(GetInferKernels(isa, kDtype)) {}

  uint64_t Hash() {
    for (const int64_t rows : {1, 2, 5}) Products(rows);
    Rows();
    for (const int64_t keys : {1, 63, 64, 131}) Attention(keys);
    return hash_.value();
  }

 private:
  static constexpr InferDtype kDtype =
      sizeof(E) == 4 ? InferDtype::kFloat32 : InferDtype::kBfloat16;

  std::vector<E> Panel(int64_t k, uint64_t seed) {
    std::vector<E> packed(static_cast<size_t>(PackedElements(kPanelColumns, k)));
    PackColumns(kDtype, Fixed<E>(kPanelColumns * k, seed).data(), kPanelColumns, k, 0,
                packed.data());
    return packed;
  }

  void Products(int64_t rows) {
    const int64_t k = 130;
    const auto x = Fixed<E>(rows * k, 1);
    const auto gate = Panel(k, 2), up = Panel(k, 3);
    std::vector<float> y(static_cast<size_t>(rows * kPanelColumns), 0.5f);
    MatmulArgs product;
    product.x = x.data();
    product.x_stride = product.k = k;
    product.rows = rows;
    product.panel = gate.data();
    product.y = y.data();
    product.y_stride = kPanelColumns;
    product.accumulate = rows == 2;
    kernels_.matmul(product);
    hash_.Add(y);
    std::vector<E> gated(static_cast<size_t>(rows * kPanelColumns));
    SwigluArgs swiglu;
    swiglu.x = x.data();
    swiglu.x_stride = swiglu.k = k;
    swiglu.rows = rows;
    swiglu.gate = gate.data();
    swiglu.up = up.data();
    swiglu.y = gated.data();
    swiglu.y_stride = kPanelColumns;
    kernels_.swiglu(swiglu);
    hash_.Add(gated);
  }

  void Rows() {
    const int64_t n = 72;
    const auto x = FixedFloats(n, 4), weight = FixedFloats(n, 5);
    std::vector<E> y(static_cast<size_t>(n));
    kernels_.rms_norm(x.data(), weight.data(), n, 1e-5f, y.data());
    hash_.Add(y);
    auto scores = FixedFloats(80, 6, 9);
    kernels_.softmax(scores.data(), 77);
    scores.resize(77);
    hash_.Add(scores);
  }

  // Places `keys` tokens in a cache of one kv head, with its norms, then attends from the last.
  void Attention(int64_t keys) {
    constexpr int64_t kHeadDim = 24, kGroup = 3, kValueStride = 32;
    const int64_t room = (keys + kKeyBlock - 1) / kKeyBlock * kKeyBlock;
    std::vector<E> key_cache(static_cast<size_t>(room * kHeadDim));
    std::vector<E> value_cache(static_cast<size_t>(room * kValueStride));
    const HeadCache cache{key_cache.data(), value_cache.data(), kValueStride};
    const auto norm = FixedFloats(kHeadDim, 7);
    std::vector<float> query;
    for (int64_t i = 0; i < keys; ++i) {
      const auto seed = static_cast<uint64_t>(10 * i + 100);
      query = FixedFloats(kGroup * kHeadDim, seed);
      auto key = FixedFloats(kHeadDim, seed + 1);
      const auto value = FixedFloats(kHeadDim, seed + 2);
      const auto cos = FixedFloats(kHeadDim / 2, seed + 3),
                 sin = FixedFloats(kHeadDim / 2, seed + 4);
      PlaceArgs place;
      place.query = query.data();
      place.heads = kGroup;
      place.key = key.data();
      place.value = value.data();
      place.kv_heads = 1;
      place.head_dim = kHeadDim;
      place.cos = cos.data();
      place.sin = sin.data();
      place.query_norm = norm.data();
      place.key_norm = norm.data();
      place.eps = 1e-6f;
      place.query_scale = 0.2f;
      place.position = i;
      place.caches = &cache;
      kernels_.place(place);
    }
    std::vector<E> out(static_cast<size_t>(kGroup * kHeadDim));
    AttendArgs attend;
    attend.query = query.data();
    attend.group = kGroup;
    attend.head_dim = kHeadDim;
    attend.cache = cache;
    attend.keys = keys;
    attend.out = out.data();
    kernels_.attend(attend);
    for (const auto& cached : {key_cache, value_cache, out}) hash_.Add(cached);
  }

  const InferKernels kernels_;
  BitHash hash_;
};

class InferKernelBits : public ::testing::TestWithParam<InferIsa> {
 protected:
  void Check(InferDtype dtype) {
    const std::vector<InferIsa> available = AvailableInferIsas();
    if (std::find(available.begin(), available.end(), GetParam()) == available.end()) {
      GTEST_SKIP() << "this processor does not have these kernels";
    }
    const std::string name = GetInferKernels(GetParam(), dtype).numerics;
    const uint64_t hash = dtype == InferDtype::kFloat32 ? KernelRun<float>(GetParam()).Hash()
                                                        : KernelRun<uint16_t>(GetParam()).Hash();
    char words[32];
    std::snprintf(words, sizeof(words), "0x%016" PRIx64, hash);
    const auto recorded = RecordedHashes().find(name);
    if (recorded == RecordedHashes().end()) {
      GTEST_SKIP() << "NO HASH IS RECORDED for " << name << ": here it is " << words;
    }
    EXPECT_EQ(hash, recorded->second) << name << ": " << words << " moved";
  }
};

TEST_P(InferKernelBits, OfFloat32StayUnderOneName) { Check(InferDtype::kFloat32); }
TEST_P(InferKernelBits, OfBfloat16StayUnderOneName) { Check(InferDtype::kBfloat16); }

INSTANTIATE_TEST_SUITE_P(Every, InferKernelBits,
                         ::testing::Values(InferIsa::kScalar, InferIsa::kAvx2, InferIsa::kAvx512,
                                           InferIsa::kAvx512Bf16),
                         [](const auto& info) { return InferIsaName(info.param); });

}  // namespace
}  // namespace mindforge
