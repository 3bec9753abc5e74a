// The training kernels of every instruction set that this machine has, against plain double loops.
#include "worker/kernels/train_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace mindforge {
namespace {

Bf16 Round(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
float Widen(Bf16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
float Widen(float value) { return value; }
void Assign(float value, float& out) { out = value; }
void Assign(float value, Bf16& out) { out = Round(value); }

template <typename T>
std::vector<T> Random(int64_t size, uint64_t seed, float scale = 1) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<T> out(size);
  for (T& x : out) Assign(normal(generator), x);
  return out;
}

// Two tasks at a time, so that a task that reads another's result is seen by a sanitizer.
void RunOnTwoThreads(void*, int64_t count, Parallel::Task task, void* context) {
  std::thread other([&] {
    for (int64_t i = 1; i < count; i += 2) task(context, i);
  });
  for (int64_t i = 0; i < count; i += 2) task(context, i);
  other.join();
}
const Parallel kTwoThreads{RunOnTwoThreads, nullptr};

const char* Name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kBaseline:
      return "baseline";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512";
    case CpuIsa::kAvx512Bf16:
      break;
  }
  return "avx512bf16";
}

class TrainKernelsTest : public ::testing::TestWithParam<CpuIsa> {
 protected:
  void SetUp() override {
    if (GetParam() > DetectCpuIsa()) GTEST_SKIP() << "this processor has no " << Name(GetParam());
  }
  template <typename T>
  static double Tolerance() {
    return std::is_same_v<T, float> ? 2e-6 : 6e-3;
  }

  template <typename T>
  void CheckNorm();
  template <typename T>
  void CheckSwiGlu();
  template <typename T>
  void CheckCrossEntropy();
  template <typename T>
  void CheckRope();
  template <typename T>
  void CheckAttention(int64_t head_dim, bool documents);
};

template <typename T>
void TrainKernelsTest::CheckNorm() {
  const TrainKernels<T>& kernels = GetTrainKernels<T>(GetParam());
  const int64_t n = 70, c = 43;
  const auto residual = Random<float>(n * c, 1);
  const auto delta = Random<T>(n * c, 2);
  const auto w = Random<float>(c, 3);
  const auto dy = Random<T>(n * c, 4);
  std::vector<float> h(n * c), rstd(n), dh(n * c, 0.5f), dw(c), partials(NormPartials(n) * c);
  std::vector<T> y(n * c), cast(n * c);
  const float eps = 1e-5f;
  kernels.add_norm(kTwoThreads, n, c, residual.data(), delta.data(), w.data(), eps, h.data(),
                   rstd.data(), y.data());
  kernels.norm_backward(kTwoThreads, n, c, dy.data(), h.data(), rstd.data(), w.data(),
                        /*accumulate=*/true, dh.data(), cast.data(), dw.data(), partials.data());
  std::vector<double> expected_dw(c);
  for (int64_t row = 0; row < n; ++row) {
    double squares = 0, dot = 0;
    std::vector<double> x(c);
    for (int64_t i = 0; i < c; ++i) {
      x[i] = residual[row * c + i] + static_cast<double>(Widen(delta[row * c + i]));
      squares += x[i] * x[i];
    }
    const double scale = 1 / std::sqrt(squares / c + eps);
    for (int64_t i = 0; i < c; ++i) {
      const double d = Widen(dy[row * c + i]);
      dot += d * w[i] * x[i] * scale / c;
      expected_dw[i] += d * x[i] * scale;
    }
    for (int64_t i = 0; i < c; ++i) {
      const int64_t at = row * c + i;
      ASSERT_NEAR(Widen(y[at]), x[i] * scale * w[i], Tolerance<T>() * 4);
      const double gradient = 0.5 + scale * (Widen(dy[at]) * w[i] - x[i] * scale * dot);
      ASSERT_NEAR(dh[at], gradient, 1e-5);
      ASSERT_NEAR(Widen(cast[at]), gradient, 1e-5 + Tolerance<T>() * std::abs(gradient));
    }
  }
  for (int64_t i = 0; i < c; ++i) ASSERT_NEAR(dw[i], expected_dw[i], 1e-4);
}

TEST_P(TrainKernelsTest, NormAndItsBackward) {
  CheckNorm<float>();
  CheckNorm<Bf16>();
}

template <typename T>
void TrainKernelsTest::CheckSwiGlu() {
  const TrainKernels<T>& kernels = GetTrainKernels<T>(GetParam());
  const int64_t n = 33, c = 21;
  const auto gate_up = Random<T>(n * 2 * c, 1, 4);
  const auto da = Random<T>(n * c, 2);
  std::vector<T> a(n * c), again(n * c), gradient = gate_up;
  kernels.swiglu(kTwoThreads, n, c, nullptr, gate_up.data(), a.data());
  kernels.swiglu_backward(kTwoThreads, n, c, nullptr, da.data(), gradient.data(), again.data(),
                          nullptr);
  for (int64_t i = 0; i < n * c; ++i) {
    const int64_t at = i / c * 2 * c + i % c;
    const double g = Widen(gate_up[at]), u = Widen(gate_up[at + c]), d = Widen(da[i]);
    const double sigmoid = 1 / (1 + std::exp(-g));
    const auto near = [&](T actual, double expected) {
      EXPECT_NEAR(Widen(actual), expected, Tolerance<T>() * (1 + std::abs(expected)));
    };
    near(a[i], g * sigmoid * u);
    near(again[i], g * sigmoid * u);
    near(gradient[at], d * u * (sigmoid + g * sigmoid * (1 - sigmoid)));
    near(gradient[at + c], d * g * sigmoid);
  }
}

TEST_P(TrainKernelsTest, SwiGluAndItsBackward) {
  CheckSwiGlu<float>();
  CheckSwiGlu<Bf16>();
}

template <typename T>
void TrainKernelsTest::CheckCrossEntropy() {
  const TrainKernels<T>& kernels = GetTrainKernels<T>(GetParam());
  const int64_t n = 40, c = 101;
  const auto logits = Random<T>(n * c, 1, 5);
  std::vector<int64_t> targets(n);
  std::vector<uint8_t> mask(n);
  for (int64_t i = 0; i < n; ++i) {
    targets[i] = i * 37 % c;
    mask[i] = i % 5 != 0;
  }
  std::vector<T> gradient = logits;
  std::vector<float> loss(n);
  kernels.cross_entropy(kTwoThreads, n, c, targets.data(), mask.data(), 0.25f, gradient.data(),
                        loss.data());
  for (int64_t row = 0; row < n; ++row) {
    double sum = 0;
    for (int64_t i = 0; i < c; ++i)
      sum += std::exp(static_cast<double>(Widen(logits[row * c + i])));
    const double expected = std::log(sum) - Widen(logits[row * c + targets[row]]);
    EXPECT_NEAR(loss[row], mask[row] ? expected : 0, 1e-5 * (1 + expected));
    for (int64_t i = 0; i < c; ++i) {
      const double p = std::exp(static_cast<double>(Widen(logits[row * c + i]))) / sum;
      const double d = mask[row] ? 0.25 * (p - (i == targets[row] ? 1 : 0)) : 0;
      ASSERT_NEAR(Widen(gradient[row * c + i]), d, Tolerance<T>());
    }
  }
}

TEST_P(TrainKernelsTest, CrossEntropyAndItsGradient) {
  CheckCrossEntropy<float>();
  CheckCrossEntropy<Bf16>();
}

TEST_P(TrainKernelsTest, CrossEntropyOfHugeLogitsIsFinite) {
  const TrainKernels<float>& kernels = GetTrainKernels<float>(GetParam());
  std::vector<float> logits = {1e4f, -1e4f, 0, 9.9e3f};
  const std::vector<int64_t> target = {1};
  float loss = 0;
  kernels.cross_entropy({}, 1, 4, target.data(), nullptr, 1, logits.data(), &loss);
  EXPECT_FLOAT_EQ(loss, 2e4f);
  EXPECT_FLOAT_EQ(logits[0], 1);
  EXPECT_FLOAT_EQ(logits[1], -1);
}

template <typename T>
void TrainKernelsTest::CheckRope() {
  const TrainKernels<T>& kernels = GetTrainKernels<T>(GetParam());
  const int64_t n = 9, heads = 3, dim = 22, stride = 80, half = dim / 2;
  std::vector<float> cos(5 * half), sin(5 * half);
  for (int64_t i = 0; i < 5 * half; ++i) {
    cos[i] = std::cos(0.1f * i);
    sin[i] = std::sin(0.1f * i);
  }
  const std::vector<int32_t> positions = {0, 1, 2, 3, 4, 0, 1, 4, 2};
  const auto x = Random<T>(n * stride, 1);
  std::vector<T> y = x;
  kernels.rope(kTwoThreads, n, positions.data(), heads, dim, stride, cos.data(), sin.data(), 1,
               y.data());
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t i = 0; i < stride; ++i) {
      const int64_t at = row * stride + i, d = i % dim;
      double expected = Widen(x[at]);
      if (i < heads * dim) {
        const int64_t angle = positions[row] * half + d % half;
        const double other = Widen(x[d < half ? at + half : at - half]);
        expected = expected * cos[angle] + (d < half ? -other : other) * sin[angle];
      }
      ASSERT_NEAR(Widen(y[at]), expected, Tolerance<T>() * 3);
    }
  }
  kernels.rope(kTwoThreads, n, positions.data(), heads, dim, stride, cos.data(), sin.data(), -1,
               y.data());
  for (int64_t i = 0; i < n * stride; ++i)
    ASSERT_NEAR(Widen(y[i]), Widen(x[i]), Tolerance<T>() * 4);
}

TEST_P(TrainKernelsTest, RopeTurnsAndTurnsBack) {
  CheckRope<float>();
  CheckRope<Bf16>();
}

// Attention by its definition, one query of one head after the other, in doubles.
template <typename T>
struct ExpectedAttention {
  const AttentionShape<T>& s;
  const std::vector<T>& qkv;
  const std::vector<T>& d_out;
  std::vector<double> out = std::vector<double>(d_out.size());
  std::vector<double> dqkv = std::vector<double>(qkv.size());

  double Dot(const std::vector<T>& a, int64_t i, int64_t j) const {
    double sum = 0;
    for (int64_t d = 0; d < s.head_dim; ++d) {
      sum += static_cast<double>(Widen(a[i + d])) * Widen(qkv[j + d]);
    }
    return sum;
  }

  void Add(int64_t begin, int64_t query, int64_t head) {
    const double scale = 1 / std::sqrt(static_cast<double>(s.head_dim));
    const int64_t q = query * s.stride + head * s.head_dim;
    const int64_t o = query * s.out_stride + head * s.head_dim;
    const int64_t k = (s.heads + head / (s.heads / s.kv_heads)) * s.head_dim;
    const int64_t v = k + s.kv_heads * s.head_dim;
    std::vector<double> p(query + 1);
    double total = 0, delta = 0;
    for (int64_t key = begin; key <= query; ++key) {
      total += p[key] = std::exp(scale * Dot(qkv, q, key * s.stride + k));
    }
    for (int64_t key = begin; key <= query; ++key) {
      p[key] /= total;
      delta += p[key] * Dot(d_out, o, key * s.stride + v);
    }
    for (int64_t key = begin; key <= query; ++key) {
      const int64_t at = key * s.stride;
      const double ds = p[key] * scale * (Dot(d_out, o, at + v) - delta);
      for (int64_t d = 0; d < s.head_dim; ++d) {
        out[o + d] += p[key] * Widen(qkv[at + v + d]);
        dqkv[q + d] += ds * Widen(qkv[at + k + d]);
        dqkv[at + k + d] += ds * Widen(qkv[q + d]);
        dqkv[at + v + d] += p[key] * Widen(d_out[o + d]);
      }
    }
  }
};

template <typename T>
void TrainKernelsTest::CheckAttention(int64_t head_dim, bool documents) {
  const TrainKernels<T>& kernels = GetTrainKernels<T>(GetParam());
  const std::vector<int64_t> starts = {0, 150, 150, 151, 230};
  AttentionShape<T> s;
  s.batch = 4;
  s.length = 150;
  s.heads = 4;
  s.kv_heads = 2;
  s.head_dim = head_dim;
  s.stride = 8 * head_dim + 3;
  s.out_stride = 4 * head_dim + 1;
  s.starts = starts.data();
  const int64_t n = s.Tokens();
  const auto qkv = Random<T>(n * s.stride, 1);
  const auto d_out = Random<T>(n * s.out_stride, 2);
  ExpectedAttention<T> expected{s, qkv, d_out};
  std::vector<int32_t> first(n);
  for (int64_t row = 0; row < s.batch; ++row) {
    for (int64_t i = 0; i < s.Length(row); ++i) {
      const int64_t token = s.Start(row) + i;
      first[token] = documents ? i / 37 * 37 : 0;
      for (int64_t head = 0; head < s.heads; ++head) {
        expected.Add(s.Start(row) + first[token], token, head);
      }
    }
  }
  if (documents) s.first_key = first.data();
  std::vector<T> out(n * s.out_stride), dqkv(n * s.stride);
  std::vector<float> log2_sum(n * s.heads), work(kernels.attention_workspace(s)),
      backward_work(kernels.attention_backward_workspace(s));
  const int64_t k = s.heads * head_dim, v = k + s.kv_heads * head_dim;
  kernels.attention(kTwoThreads, s, qkv.data(), qkv.data() + k, qkv.data() + v, out.data(),
                    log2_sum.data(), work.data());
  kernels.attention_backward(kTwoThreads, s, qkv.data(), qkv.data() + k, qkv.data() + v, out.data(),
                             log2_sum.data(), d_out.data(), dqkv.data(), dqkv.data() + k,
                             dqkv.data() + v, backward_work.data());
  const double tolerance = std::is_same_v<T, float> ? 1e-5 : 4e-2;
  for (int64_t i = 0; i < n * s.out_stride; ++i) {
    ASSERT_NEAR(Widen(out[i]), expected.out[i], tolerance);
  }
  for (int64_t i = 0; i < n * s.stride; ++i) {
    ASSERT_NEAR(Widen(dqkv[i]), expected.dqkv[i], tolerance * (1 + std::abs(expected.dqkv[i]) / 4));
  }
}

TEST_P(TrainKernelsTest, AttentionOfUnevenRows) {
  CheckAttention<float>(24, false);
  CheckAttention<Bf16>(24, false);
}

TEST_P(TrainKernelsTest, AttentionInsideDocuments) {
  CheckAttention<float>(64, true);
  CheckAttention<Bf16>(64, true);
}

TEST_P(TrainKernelsTest, ConversionsRoundToNearestEvenAndKeepNan) {
  const TrainKernels<Bf16>& kernels = GetTrainKernels<Bf16>(GetParam());
  auto x = Random<float>(1001, 5, 100);
  x[7] = std::nanf("");
  x[8] = INFINITY;
  x[9] = 1.00390625f;  // a tie, to even
  x[10] = 3.3e38f;
  std::vector<Bf16> y(x.size());
  std::vector<float> back(x.size());
  kernels.from_float(kTwoThreads, x.size(), x.data(), y.data());
  kernels.to_float(kTwoThreads, x.size(), y.data(), back.data());
  for (size_t i = 0; i < x.size(); ++i) {
    if (i == 7) {
      EXPECT_TRUE(std::isnan(back[i]));
    } else {
      EXPECT_EQ(y[i].bits, Round(x[i]).bits) << x[i];
      EXPECT_EQ(back[i], Widen(y[i]));
    }
  }
}

TEST_P(TrainKernelsTest, EmbeddingAddsRowsOfOneIdInOrder) {
  const TrainKernels<float>& kernels = GetTrainKernels<float>(GetParam());
  const int64_t c = 131;
  const std::vector<int64_t> ids = {2, 0, 2};
  const auto table = Random<float>(3 * c, 1);
  std::vector<float> h(3 * c), gradient(3 * c, 1.0f);
  kernels.embed(kTwoThreads, 3, c, ids.data(), table.data(), h.data());
  kernels.embed_backward(kTwoThreads, 3, c, ids.data(), h.data(), gradient.data());
  for (int64_t i = 0; i < c; ++i) {
    EXPECT_EQ(h[c + i], table[i]);
    EXPECT_EQ(gradient[2 * c + i], (1.0f + table[2 * c + i]) + table[2 * c + i]);
    EXPECT_EQ(gradient[c + i], 1.0f);
  }
}

TEST_P(TrainKernelsTest, SumOfSquares) {
  const OptimizerKernels& kernels = GetOptimizerKernels(GetParam());
  const auto x = Random<float>(3 * kSquareBlock + 77, 3);
  std::vector<double> sums(4);
  kernels.sum_squares(kTwoThreads, x.size(), x.data(), sums.data());
  double expected = 0, actual = 0;
  for (const float v : x) expected += static_cast<double>(v) * v;
  for (const double v : sums) actual += v;
  EXPECT_NEAR(actual, expected, 1e-6 * expected);
}

INSTANTIATE_TEST_SUITE_P(Every, TrainKernelsTest,
                         ::testing::Values(CpuIsa::kBaseline, CpuIsa::kAvx2, CpuIsa::kAvx512,
                                           CpuIsa::kAvx512Bf16),
                         [](const auto& info) { return std::string(Name(info.param)); });

}  // namespace
}  // namespace mindforge
