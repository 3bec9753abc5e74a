// The CUDA column's attention against its definition in float64 on the same rounded inputs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "tests/kernels/bits.h"
#include "tests/kernels/cuda/on_device.h"
#include "worker/kernels/cuda/attention.h"

namespace mindforge {
namespace {

struct Case {
  int64_t head_dim = 64;
  int64_t heads = 4;
  int64_t kv_heads = 2;
  std::vector<int64_t> lengths = {512};
  bool ragged = false;   // rows lie by `starts`
  int64_t document = 0;  // tokens of one; 0: none
  bool mask = false;     // of keys; forward only
  bool dropout = false;
  int64_t padding = 0;  // elements after each token's heads
};

bool Keeps(const DropoutSite& site, int64_t head, int64_t row, int64_t query, int64_t key) {
  const uint64_t low = static_cast<uint64_t>(row) << 32 | static_cast<uint64_t>(query);
  const uint64_t high = static_cast<uint64_t>(site.stream + static_cast<uint32_t>(head)) << 32 |
                        static_cast<uint64_t>(key / 64 * 16 + key % 16);
  return Philox(site.key, high, low)[static_cast<size_t>(key % 64 / 16)] >= site.threshold;
}

// Inputs of a case and what comes of them, in float64.
template <typename T>
struct Expected {
  AttentionShape<T> shape;
  std::vector<int64_t> starts = {0};
  std::vector<int32_t> first_key;
  std::vector<uint8_t> key_mask;
  DropoutSite site{0x123456789abcdef, 3 * kDropoutIndices, 1u << 30, 4.0f / 3};
  std::vector<T> qkv, d_out;
  std::vector<double> q64, do64, out, dqkv, log2_sum;

  explicit Expected(const Case& c) {
    for (const int64_t length : c.lengths) {
      starts.push_back(starts.back() + length);
      shape.length = std::max(shape.length, length);
      for (int64_t i = 0; i < length; ++i) {
        first_key.push_back(c.document == 0 ? 0
                                            : static_cast<int32_t>(i / c.document * c.document));
        key_mask.push_back(!c.mask || (i * 7919 % 5 != 0 && i > 2));
      }
    }
    shape.batch = static_cast<int64_t>(c.lengths.size());
    shape.heads = c.heads;
    shape.kv_heads = c.kv_heads;
    shape.head_dim = c.head_dim;
    shape.stride = (c.heads + 2 * c.kv_heads) * c.head_dim + c.padding;
    shape.out_stride = c.heads * c.head_dim + c.padding;
    shape.tokens = starts.back();
    if (c.dropout) shape.dropout = &site;
    qkv = Rounded<T>(FixedFloats(shape.tokens * shape.stride, 1, 2));
    d_out = Rounded<T>(FixedFloats(shape.tokens * shape.out_stride, 2, 2));
    for (const T x : qkv) q64.push_back(Widen(x));
    for (const T x : d_out) do64.push_back(Widen(x));
    out.assign(d_out.size(), 0);
    dqkv.assign(qkv.size(), 0);
    log2_sum.assign(static_cast<size_t>(shape.tokens * shape.heads), 1e30);
    for (int64_t row = 0; row < shape.batch; ++row) {
      for (int64_t head = 0; head < c.heads; ++head) {
        for (int64_t i = 0; i < c.lengths[static_cast<size_t>(row)]; ++i) Add(row, head, i);
      }
    }
  }

  double Dot(const double* a, const double* b) const {
    double sum = 0;
    for (int64_t d = 0; d < shape.head_dim; ++d) sum += a[d] * b[d];
    return sum;
  }
  int64_t K() const { return shape.heads * shape.head_dim; }
  int64_t V() const { return K() + shape.kv_heads * shape.head_dim; }

  void Add(int64_t row, int64_t head, int64_t query) {
    const int64_t start = starts[static_cast<size_t>(row)], token = start + query;
    const int64_t begin = first_key[static_cast<size_t>(token)];
    const int64_t group = head / (shape.heads / shape.kv_heads) * shape.head_dim;
    const int64_t q = token * shape.stride + head * shape.head_dim;
    const int64_t o = token * shape.out_stride + head * shape.head_dim;
    const double scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
    std::vector<double> p(static_cast<size_t>(query + 1)), dp(p.size());
    double total = 0, delta = 0;
    for (int64_t key = begin; key <= query; ++key) {
      if (key_mask[static_cast<size_t>(start + key)] == 0) continue;
      const double* k = &q64[static_cast<size_t>((start + key) * shape.stride + K() + group)];
      total += p[static_cast<size_t>(key)] = std::exp(scale * Dot(&q64[static_cast<size_t>(q)], k));
    }
    if (total == 0) return;
    log2_sum[static_cast<size_t>(head * shape.tokens + token)] = std::log2(total);
    for (int64_t key = begin; key <= query; ++key) {
      const double keep = shape.dropout == nullptr             ? 1
                          : Keeps(site, head, row, query, key) ? site.scale
                                                               : 0;
      const int64_t v = (start + key) * shape.stride + V() + group;
      double& x = p[static_cast<size_t>(key)];
      x /= total;
      double& dx = dp[static_cast<size_t>(key)];
      dx = keep * Dot(&do64[static_cast<size_t>(o)], &q64[static_cast<size_t>(v)]);
      delta += x * dx;
      for (int64_t d = 0; d < shape.head_dim; ++d) {
        out[static_cast<size_t>(o + d)] += x * keep * q64[static_cast<size_t>(v + d)];
        dqkv[static_cast<size_t>(v + d)] += x * keep * do64[static_cast<size_t>(o + d)];
      }
    }
    for (int64_t key = begin; key <= query; ++key) {
      const int64_t k = (start + key) * shape.stride + K() + group;
      const double ds =
          p[static_cast<size_t>(key)] * scale * (dp[static_cast<size_t>(key)] - delta);
      for (int64_t d = 0; d < shape.head_dim; ++d) {
        dqkv[static_cast<size_t>(q + d)] += ds * q64[static_cast<size_t>(k + d)];
        dqkv[static_cast<size_t>(k + d)] += ds * q64[static_cast<size_t>(q + d)];
      }
    }
  }
};

// ||x - reference|| / ||reference|| over columns [begin, end) of rows; NaN where x is.
template <typename T>
double Error(const std::vector<T>& x, const std::vector<double>& reference, int64_t stride,
             int64_t begin, int64_t end) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const int64_t column = static_cast<int64_t>(i) % stride;
    if (column < begin || column >= end) continue;
    const double e = Widen(x[i]) - reference[i];
    error += e * e;
    norm += reference[i] * reference[i];
  }
  return norm == 0 ? error : std::sqrt(error / norm);
}

template <typename T>
struct Results {
  std::vector<T> out, dqkv;
  std::vector<float> log2_sum;
};

template <typename T>
Results<T> RunOnce(const Expected<T>& e, const Case& c) {
  AttentionShape<T> s = e.shape;
  const OnDevice<int64_t> starts(e.starts);
  const OnDevice<int32_t> first_key(e.first_key);
  const OnDevice<uint8_t> key_mask(e.key_mask);
  const OnDevice<T> qkv(e.qkv), d_out(e.d_out);
  const OnDevice<T> out(static_cast<int64_t>(e.out.size())),
      dqkv(static_cast<int64_t>(e.dqkv.size()));
  const OnDevice<float> log2_sum(s.heads * s.tokens);
  if (c.ragged) s.starts = starts.get();
  if (c.document != 0) s.first_key = first_key.get();
  if (c.mask) s.key_mask = key_mask.get();
  const OnDevice<float> work(CudaAttentionWorkspace(s)),
      backward_work(CudaAttentionBackwardWorkspace(s));
  const Parallel parallel;
  CudaAttention<T>(parallel, s, qkv.get(), qkv.get() + e.K(), qkv.get() + e.V(), out.get(),
                   log2_sum.get(), work.get());
  if (!c.mask) {
    CudaAttentionBackward<T>(parallel, s, qkv.get(), qkv.get() + e.K(), qkv.get() + e.V(),
                             out.get(), log2_sum.get(), d_out.get(), dqkv.get(), dqkv.get() + e.K(),
                             dqkv.get() + e.V(), backward_work.get());
  }
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  return {out.Host(), dqkv.Host(), log2_sum.Host()};
}

template <typename T>
void Check(const Case& c) {
  SCOPED_TRACE(testing::Message() << sizeof(T) << " bytes, head_dim " << c.head_dim << ", heads "
                                  << c.heads << "/" << c.kv_heads << ", length " << c.lengths[0]
                                  << ", rows " << c.lengths.size() << ", document " << c.document
                                  << ", dropout " << c.dropout);
  const Expected<T> e(c);
  const Results<T> x = RunOnce(e, c);
  const bool exact = std::is_same_v<T, float>;
  const int64_t stride = e.shape.stride, width = c.heads * c.head_dim;
  EXPECT_LE(Error(x.out, e.out, e.shape.out_stride, 0, width), exact ? 3e-6 : 5e-3);
  EXPECT_LE(Error(x.log2_sum, e.log2_sum, 1, 0, 1), 1e-5);
  if (!c.mask) {
    const double tolerance = exact ? 1e-5 : 1e-2;
    EXPECT_LE(Error(x.dqkv, e.dqkv, stride, 0, e.K()), tolerance) << "dq";
    EXPECT_LE(Error(x.dqkv, e.dqkv, stride, e.K(), e.V()), tolerance) << "dk";
    EXPECT_LE(Error(x.dqkv, e.dqkv, stride, e.V(), stride - c.padding), tolerance) << "dv";
  }
  const Results<T> again = RunOnce(e, c);
  EXPECT_TRUE(SameBits(x.out, again.out));
  EXPECT_TRUE(SameBits(x.log2_sum, again.log2_sum));
  EXPECT_TRUE(SameBits(x.dqkv, again.dqkv));
}

class CudaAttentionTest : public GpuTest {
 protected:
  void CheckAll(const Case& c) {
    Check<float>(c);
    Check<Bf16>(c);
    Check<Half>(c);
  }
};

TEST_F(CudaAttentionTest, AgreesForEveryLength) {
  for (const int64_t length : {1, 17, 64, 65, 512, 700}) {
    CheckAll({.head_dim = 64, .lengths = {length, length}});
  }
}

TEST_F(CudaAttentionTest, AgreesForEveryHeadDim) {
  for (const int64_t head_dim : {2, 24, 32, 48, 64, 80, 96, 128, 130, 256}) {
    CheckAll({.head_dim = head_dim, .lengths = {150}});
  }
}

TEST_F(CudaAttentionTest, AgreesForEveryGroupOfHeads) {
  for (const int64_t kv_heads : {1, 2, 4, 12}) {
    CheckAll({.head_dim = 32, .heads = 12, .kv_heads = kv_heads, .lengths = {200, 200}});
  }
}

TEST_F(CudaAttentionTest, AgreesForUnevenRows) {
  for (const int64_t head_dim : {32, 64, 80, 96, 128}) {
    CheckAll({.head_dim = head_dim, .lengths = {150, 0, 1, 79, 300}, .ragged = true});
  }
}

TEST_F(CudaAttentionTest, StaysInsideDocuments) {
  for (const int64_t document : {1, 37, 64, 200}) {
    CheckAll({.head_dim = 64, .lengths = {512}, .document = document});
    CheckAll({.head_dim = 96, .lengths = {301, 90}, .ragged = true, .document = document});
  }
}

TEST_F(CudaAttentionTest, MasksKeysAndGivesZeroToQueriesWithoutAny) {
  for (const int64_t head_dim : {24, 64, 96}) {
    CheckAll({.head_dim = head_dim, .lengths = {200, 33}, .ragged = true, .mask = true});
  }
}

TEST_F(CudaAttentionTest, DropsTheProbabilitiesOfTheSite) {
  for (const int64_t head_dim : {24, 32, 64, 80, 96, 128}) {
    CheckAll({.head_dim = head_dim, .lengths = {200, 97}, .ragged = true, .dropout = true});
  }
  CheckAll({.head_dim = 64, .lengths = {250}, .document = 70, .dropout = true});
}

TEST_F(CudaAttentionTest, TakesRowsThatAreNotAligned) {
  CheckAll({.head_dim = 64, .lengths = {100}, .padding = 3});
  CheckAll({.head_dim = 64, .lengths = {100}, .padding = 8});
}

TEST_F(CudaAttentionTest, DoesNothingForNoTokens) {
  const AttentionShape<Bf16> s{.heads = 4, .kv_heads = 2, .head_dim = 64};
  CudaAttention<Bf16>({}, s, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr);
  CudaAttentionBackward<Bf16>({}, s, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                              nullptr, nullptr, nullptr);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

}  // namespace
}  // namespace mindforge
