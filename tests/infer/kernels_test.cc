#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "worker/kernels/infer_kernels.h"

namespace mindforge {
namespace {

// Values that bfloat16 holds exactly, so that one expectation serves both dtypes.
std::vector<float> RandomValues(int64_t count, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = FloatFromBfloat16(Bfloat16FromFloat(normal(engine)));
  return values;
}

// A buffer of a table's elements.
class Elements {
 public:
  Elements(InferDtype dtype, const std::vector<float>& values) : dtype_(dtype) {
    bytes_.resize(values.size() * size());
    for (size_t i = 0; i < values.size(); ++i) Set(i, values[i]);
  }
  size_t size() const { return dtype_ == InferDtype::kFloat32 ? 4 : 2; }
  void Set(size_t i, float value) {
    const uint16_t bits = Bfloat16FromFloat(value);
    if (dtype_ == InferDtype::kFloat32) {
      std::memcpy(&bytes_[i * 4], &value, 4);
    } else {
      std::memcpy(&bytes_[i * 2], &bits, 2);
    }
  }
  float Get(size_t i) const {
    if (dtype_ == InferDtype::kBfloat16) {
      uint16_t bits;
      std::memcpy(&bits, &bytes_[i * 2], 2);
      return FloatFromBfloat16(bits);
    }
    float value;
    std::memcpy(&value, &bytes_[i * 4], 4);
    return value;
  }
  std::vector<float> Values() const {
    std::vector<float> values(bytes_.size() / size());
    for (size_t i = 0; i < values.size(); ++i) values[i] = Get(i);
    return values;
  }
  void* at(size_t i) { return &bytes_[i * size()]; }
  const void* at(size_t i) const { return &bytes_[i * size()]; }

 private:
  const InferDtype dtype_;
  std::vector<char> bytes_;
};

class InferKernelsTest : public ::testing::TestWithParam<std::tuple<InferIsa, InferDtype>> {
 protected:
  InferDtype dtype() const { return std::get<1>(GetParam()); }
  InferKernels kernels() const { return GetInferKernels(std::get<0>(GetParam()), dtype()); }
  double tolerance() const { return dtype() == InferDtype::kFloat32 ? 1e-5 : 1e-2; }

  Elements Pack(const std::vector<float>& weights, int64_t columns, int64_t k) {
    const Elements rows(dtype(), weights);
    Elements packed(dtype(), std::vector<float>(PackedElements(columns, k)));
    PackColumns(dtype(), rows.at(0), columns, k, 0, packed.at(0));
    return packed;
  }
  std::vector<float> Multiply(const Elements& x, int64_t rows, const Elements& packed,
                              int64_t columns, int64_t k) {
    std::vector<float> y(rows * columns, 1.0f);
    for (int64_t p = 0; p * kPanelColumns < columns; ++p) {
      kernels().matmul({.x = x.at(0),
                        .x_stride = k,
                        .rows = rows,
                        .panel = packed.at(PanelOffset(p, k)),
                        .k = k,
                        .y = &y[p * kPanelColumns],
                        .y_stride = columns,
                        .columns = std::min(kPanelColumns, columns - p * kPanelColumns),
                        .accumulate = true});
    }
    return y;
  }
};

TEST_P(InferKernelsTest, AProductIsRightWhateverItsShape) {
  for (const auto& [rows, columns, k] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {1, 64, 8}, {2, 40, 34}, {5, 130, 64}, {6, 64, 100}, {7, 200, 66}, {13, 17, 2}}) {
    const std::vector<float> x = RandomValues(rows * k, 1);
    const std::vector<float> w = RandomValues(columns * k, 2);
    const std::vector<float> y =
        Multiply(Elements(dtype(), x), rows, Pack(w, columns, k), columns, k);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        double sum = 1;
        for (int64_t i = 0; i < k; ++i) sum += double{x[r * k + i]} * w[c * k + i];
        ASSERT_NEAR(y[r * columns + c], sum, 1e-4) << rows << "x" << columns << "x" << k;
      }
    }
  }
}

TEST_P(InferKernelsTest, ARowsBitsDoNotDependOnTheRowsBesideIt) {
  constexpr int64_t kRows = 19, kColumns = 100, kK = 130;
  const Elements x(dtype(), RandomValues(kRows * kK, 3));
  const Elements packed = Pack(RandomValues(kColumns * kK, 4), kColumns, kK);
  const std::vector<float> all = Multiply(x, kRows, packed, kColumns, kK);
  for (int64_t r = 0; r < kRows; ++r) {
    std::vector<float> row = x.Values();
    row.assign(row.begin() + r * kK, row.begin() + (r + 1) * kK);
    const std::vector<float> alone = Multiply(Elements(dtype(), row), 1, packed, kColumns, kK);
    ASSERT_EQ(std::memcmp(alone.data(), &all[r * kColumns], kColumns * 4), 0) << "row " << r;
  }
}

TEST_P(InferKernelsTest, SwigluIsRight) {
  constexpr int64_t kRows = 7, kColumns = 50, kK = 32;
  const std::vector<float> x = RandomValues(kRows * kK, 5);
  const std::vector<float> gate = RandomValues(kColumns * kK, 6);
  const std::vector<float> up = RandomValues(kColumns * kK, 7);
  const Elements xs(dtype(), x), gates = Pack(gate, kColumns, kK), ups = Pack(up, kColumns, kK);
  Elements y(dtype(), std::vector<float>(kRows * kColumns));
  kernels().swiglu({.x = xs.at(0),
                    .x_stride = kK,
                    .rows = kRows,
                    .gate = gates.at(0),
                    .up = ups.at(0),
                    .k = kK,
                    .y = y.at(0),
                    .y_stride = kColumns,
                    .columns = kColumns});
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < kColumns; ++c) {
      double g = 0, u = 0;
      for (int64_t i = 0; i < kK; ++i) {
        g += double{x[r * kK + i]} * gate[c * kK + i];
        u += double{x[r * kK + i]} * up[c * kK + i];
      }
      const double expected = g / (1 + std::exp(-g)) * u;
      ASSERT_NEAR(y.Get(r * kColumns + c), expected, tolerance() * (1 + std::abs(expected)));
    }
  }
}

TEST_P(InferKernelsTest, RmsNormIsRight) {
  for (int64_t n : {8, 16, 50, 512}) {
    const std::vector<float> x = RandomValues(n, 8), w = RandomValues(n, 9);
    Elements y(dtype(), std::vector<float>(n));
    kernels().rms_norm(x.data(), w.data(), n, 1e-5f, y.at(0));
    double squares = 0;
    for (float v : x) squares += double{v} * v;
    for (int64_t i = 0; i < n; ++i) {
      const double expected = x[i] / std::sqrt(squares / static_cast<double>(n) + 1e-5) * w[i];
      ASSERT_NEAR(y.Get(i), expected, tolerance() * (1 + std::abs(expected)));
    }
  }
}

TEST_P(InferKernelsTest, SoftmaxIsRight) {
  for (int64_t n : {1, 4, 16, 17, 70}) {
    const std::vector<float> x = RandomValues(n, 10);
    std::vector<float> y = x;
    y.resize((n + 15) / 16 * 16, 1e30f);  // what lies beyond does not matter
    kernels().softmax(y.data(), n);
    double sum = 0;
    for (float value : x) sum += std::exp(double{value});
    for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(y[i], std::exp(double{x[i]}) / sum, 1e-6) << n;
  }
}

// Attention over `keys` positions against the formula; also places them through the kernel.
TEST_P(InferKernelsTest, AttentionIsRight) {
  for (const auto& [group, dim, keys] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {1, 8, 1}, {2, 16, 63}, {4, 64, 64}, {3, 24, 65}, {7, 64, 300}}) {
    const int64_t stride = (dim + 15) / 16 * 16, padded = (keys + 63) / 64 * 64;
    Elements key_store(dtype(), std::vector<float>(padded * dim));
    Elements value_store(dtype(), std::vector<float>(padded * stride));
    const HeadCache cache{key_store.at(0), value_store.at(0), stride};
    std::vector<float> k = RandomValues(keys * dim, 10), v = RandomValues(keys * dim, 11);
    std::vector<float> q = RandomValues(group * dim, 12);
    const std::vector<float> ones(dim, 1.0f), zeros(dim);
    for (int64_t p = 0; p < keys; ++p) {
      float unused = 0;
      kernels().place({.query = &unused,
                       .key = &k[p * dim],
                       .value = &v[p * dim],
                       .kv_heads = 1,
                       .head_dim = dim,
                       .cos = ones.data(),
                       .sin = zeros.data(),
                       .position = p,
                       .caches = &cache});
    }
    Elements out(dtype(), std::vector<float>(group * dim));
    kernels().attend({.query = q.data(),
                      .group = group,
                      .head_dim = dim,
                      .cache = cache,
                      .keys = keys,
                      .out = out.at(0)});
    for (int64_t g = 0; g < group; ++g) {
      std::vector<double> weights(keys), expected(dim);
      double total = 0, largest = -1e300;
      for (int64_t p = 0; p < keys; ++p) {
        for (int64_t d = 0; d < dim; ++d) weights[p] += double{q[g * dim + d]} * k[p * dim + d];
        largest = std::max(largest, weights[p]);
      }
      for (double& w : weights) total += w = std::exp(w - largest);
      for (int64_t p = 0; p < keys; ++p) {
        for (int64_t d = 0; d < dim; ++d) expected[d] += weights[p] / total * v[p * dim + d];
      }
      for (int64_t d = 0; d < dim; ++d) {
        ASSERT_NEAR(out.Get(g * dim + d), expected[d], tolerance()) << group << " " << keys;
      }
    }
  }
}

TEST_P(InferKernelsTest, PlaceTurnsHeadsByTheirAngle) {
  constexpr int64_t kDim = 12;
  std::vector<float> cos(6), sin(6);
  for (int64_t i = 0; i < 6; ++i) {
    cos[i] = std::cos(0.3f * static_cast<float>(i));
    sin[i] = std::sin(0.3f * static_cast<float>(i));
  }
  std::vector<float> q = RandomValues(kDim, 13), k = RandomValues(kDim, 14), v(kDim, 2.0f);
  const std::vector<float> before = q;
  Elements keys(dtype(), std::vector<float>(64 * kDim)), values(dtype(), std::vector<float>(1024));
  const HeadCache cache{keys.at(0), values.at(0), 16};
  kernels().place({.query = q.data(),
                   .heads = 1,
                   .key = k.data(),
                   .value = v.data(),
                   .kv_heads = 1,
                   .head_dim = kDim,
                   .cos = cos.data(),
                   .sin = sin.data(),
                   .query_scale = 0.5f,
                   .position = 17,
                   .caches = &cache});
  for (int64_t i = 0; i < 6; ++i) {
    EXPECT_NEAR(q[i], 0.5 * (before[i] * cos[i] - before[i + 6] * sin[i]), 1e-6);
    EXPECT_NEAR(q[i + 6], 0.5 * (before[i + 6] * cos[i] + before[i] * sin[i]), 1e-6);
  }
  EXPECT_NEAR(keys.Get(16 * kDim + 3 * 16 + 1), k[3], tolerance()) << "position 17 is lane 1";
  EXPECT_EQ(values.Get(17 * 16 + 5), 2.0f);
}

INSTANTIATE_TEST_SUITE_P(EveryInstructionSet, InferKernelsTest,
                         ::testing::Combine(::testing::ValuesIn(AvailableInferIsas()),
                                            ::testing::Values(InferDtype::kFloat32,
                                                              InferDtype::kBfloat16)),
                         [](const auto& info) {
                           return std::string(InferIsaName(std::get<0>(info.param))) +
                                  (std::get<1>(info.param) == InferDtype::kFloat32 ? "_f32"
                                                                                   : "_bf16");
                         });

TEST(InferKernels, Bfloat16RoundsToNearestEven) {
  EXPECT_EQ(Bfloat16FromFloat(1.0f), 0x3f80);
  EXPECT_EQ(Bfloat16FromFloat(1.00390625f), 0x3f80);  // halfway, even below
  EXPECT_EQ(Bfloat16FromFloat(1.01171875f), 0x3f82);  // halfway, even above
  EXPECT_EQ(Bfloat16FromFloat(-1.0f), 0xbf80);
  EXPECT_EQ(FloatFromBfloat16(0x4049), 3.140625f);
}

}  // namespace
}  // namespace mindforge
