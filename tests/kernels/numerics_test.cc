// The bits of every training kernel of every column that this processor has, under the name of its
// numerics. A hash that moves means: give the numerics another version in
// common/training_numerics.cc (docs/decisions/0032 says what follows), then record the new hash.
#include <gtest/gtest.h>

#include <cinttypes>
#include <cstdio>
#include <map>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "common/training_numerics.h"
#include "tests/kernels/bits.h"
#include "worker/kernels/train_kernels.h"

namespace mindforge {
namespace {

// By CpuTrainingNumerics' name of an AMD processor, whose library products no kernel here calls.
const std::map<std::string, uint64_t>& RecordedHashes() {
  static const std::map<std::string, uint64_t> hashes = {
      {"cpu/AuthenticAMD/baseline/train-f32-1/torch-2.11.0/threads=1", 0x79da892783be2b8d},
      {"cpu/AuthenticAMD/baseline/train-bf16-1/torch-2.11.0", 0x2cb692bf11abeb0f},
      {"cpu/AuthenticAMD/avx2/train-f32-1/torch-2.11.0", 0xbb698cffd411b43a},
      {"cpu/AuthenticAMD/avx2/train-bf16-1/torch-2.11.0", 0x6a6e0229f3a9b9f5},
      {"cpu/AuthenticAMD/avx512/train-f32-1/torch-2.11.0", 0x9a9f8dcde8ec0458},
      {"cpu/AuthenticAMD/avx512/train-bf16-1/torch-2.11.0/threads=1", 0xb78236f14d5eef21},
      {"cpu/AuthenticAMD/avx512-bf16/train-f32-1/torch-2.11.0", 0x9a9f8dcde8ec0458},
      {"cpu/AuthenticAMD/avx512-bf16/train-bf16-1/torch-2.11.0/threads=1", 0x763a58d496c21509},
  };
  return hashes;
}

template <typename T>
std::vector<T> Fixed(int64_t size, uint64_t seed, float scale = 1) {
  if constexpr (std::is_same_v<T, float>) {
    return FixedFloats(size, seed, scale);
  } else {
    std::vector<Bf16> out;
    for (const uint16_t bits : FixedBf16Bits(size, seed, scale)) out.push_back({bits});
    return out;
  }
}

void RunOnThreeThreads(void*, int64_t count, Parallel::Task task, void* context) {
  std::vector<std::thread> threads;
  for (int64_t first = 0; first < 3; ++first) {
    threads.emplace_back([=] {
      for (int64_t i = first; i < count; i += 3) task(context, i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Runs the kernels of one table on fixed inputs and hashes all that they write. Sizes are no
// multiples of any vector, so that tails are in it.
template <typename T>
class KernelRun {
 public:
  KernelRun(CpuIsa isa, const Parallel& parallel)
      : kernels_(GetTrainKernels<T>(isa)),
        optimizer_(GetOptimizerKernels(isa)),
        parallel_(parallel) {}

  uint64_t Hash() {
    Embedding();
    Norms();
    HeadNorms();
    Rope();
    SwiGlu();
    Dropout();
    Router();
    Rows();
    Loss();
    Products();
    Attention();
    Optimizer();
    return hash_.value();
  }

 private:
  void Embedding() {
    const std::vector<int64_t> ids = {2, 0, 2, 4, 1};
    const int64_t n = 5, c = 43;
    const auto table = Fixed<float>(5 * c, 1);
    std::vector<float> h(n * c), gradient(5 * c, 0.5f);
    kernels_.embed(parallel_, n, c, ids.data(), table.data(), h.data());
    kernels_.embed_backward(parallel_, n, c, ids.data(), h.data(), gradient.data());
    hash_.Add(h);
    hash_.Add(gradient);
  }

  void Norms() {
    const int64_t n = 70, c = 43;
    const auto residual = Fixed<float>(n * c, 2), w = Fixed<float>(c, 3);
    const auto delta = Fixed<T>(n * c, 4), dy = Fixed<T>(n * c, 5);
    std::vector<float> h(n * c), rstd(n), dh(n * c, 0.5f), dw(c), partials(NormPartials(n) * c);
    std::vector<T> y(n * c), cast(n * c);
    kernels_.add_norm(parallel_, n, c, residual.data(), delta.data(), w.data(), 1e-5f, h.data(),
                      rstd.data(), y.data());
    kernels_.norm_backward(parallel_, n, c, dy.data(), h.data(), rstd.data(), w.data(), true,
                           dh.data(), cast.data(), dw.data(), partials.data());
    for (const auto& out : {h, rstd, dh, dw}) hash_.Add(out);
    hash_.Add(y);
    hash_.Add(cast);
  }

  void HeadNorms() {
    const auto q = Fixed<float>(24, 6), k = Fixed<float>(24, 7);
    const QkNormShape shape{37, 4, 2, 24, 200, 1e-6f, q.data(), k.data()};
    const auto x = Fixed<T>(shape.tokens * shape.stride, 8);
    std::vector<T> y(x.size()), dy = Fixed<T>(shape.tokens * shape.stride, 9);
    std::vector<float> dq(24), dk(24), partials(NormPartials(shape.tokens) * 2 * 24);
    kernels_.qk_norm(parallel_, shape, x.data(), y.data());
    kernels_.qk_norm_backward(parallel_, shape, x.data(), dy.data(), dq.data(), dk.data(),
                              partials.data());
    hash_.Add(y);
    hash_.Add(dy);
    hash_.Add(dq);
    hash_.Add(dk);
  }

  void Rope() {
    const int64_t n = 19, heads = 3, head_dim = 24, stride = 80;
    std::vector<int32_t> positions;
    for (int32_t i = 0; i < n; ++i) positions.push_back(i % 7);
    const auto cos = Fixed<float>(7 * head_dim, 10), sin = Fixed<float>(7 * head_dim, 11);
    auto x = Fixed<T>(n * stride, 12);
    kernels_.rope(parallel_, n, positions.data(), heads, head_dim, stride, cos.data(), sin.data(),
                  1, x.data());
    hash_.Add(x);
  }

  void SwiGlu() {
    const int64_t n = 33, c = 21;
    const auto scale = Fixed<float>(n, 13);
    auto gate_up = Fixed<T>(n * 2 * c, 14, 4);
    const auto da = Fixed<T>(n * c, 15);
    std::vector<T> a(n * c), again(n * c);
    std::vector<float> d_scale(n);
    kernels_.swiglu(parallel_, n, c, scale.data(), gate_up.data(), a.data());
    kernels_.swiglu_backward(parallel_, n, c, scale.data(), da.data(), gate_up.data(), again.data(),
                             d_scale.data());
    hash_.Add(a);
    hash_.Add(again);
    hash_.Add(gate_up);
    hash_.Add(d_scale);
  }

  void Dropout() {
    const int64_t n = 9, c = 83;
    const TokenPlaces places{row_.data(), position_.data()};
    const auto x = Fixed<T>(n * c, 16);
    std::vector<T> y(n * c);
    kernels_.dropout(parallel_, n, c, places, site_, 3, x.data(), y.data());
    hash_.Add(y);
    std::vector<float> scores(2 * 2 * 21 * 21);
    kernels_.dropout_scores(parallel_, 2, 2, 21, site_, scores.data());
    hash_.Add(scores);
  }

  void Router() {
    const RouterShape shape{29, 37, 5, 2, true};
    const auto x = Fixed<T>(shape.tokens * shape.hidden, 17);
    const auto w = Fixed<float>(shape.experts * shape.hidden, 18);
    std::vector<float> scores(shape.tokens * shape.experts), weights(shape.tokens * 2);
    std::vector<int32_t> chosen(shape.tokens * 2), slots, rows(shape.tokens, 0);
    kernels_.route(parallel_, shape, x.data(), w.data(), scores.data(), chosen.data(),
                   weights.data());
    for (int32_t i = 0; i < shape.tokens * 2; ++i) slots.push_back(i);
    const auto d_weights = Fixed<float>(shape.tokens * 2, 19), balance = Fixed<float>(5, 20);
    std::vector<float> d_logits(scores.size()), dw(w.size());
    kernels_.route_backward(parallel_, shape,
                            {scores.data(), chosen.data(), weights.data(), slots.data(),
                             d_weights.data(), balance.data(), rows.data()},
                            d_logits.data());
    kernels_.router_weight_gradient(parallel_, shape, d_logits.data(), x.data(), dw.data());
    for (const auto& out : {scores, weights, d_logits, dw}) hash_.Add(out);
    hash_.Add(chosen);
  }

  void Rows() {
    const std::vector<int32_t> tokens = {3, 0, -1, 1, 3}, slots = {1, 3, 0, 4};
    const int64_t c = 43;
    const auto x = Fixed<T>(5 * c, 21), base = Fixed<T>(2 * c, 22);
    std::vector<T> gathered(5 * c), combined(2 * c);
    kernels_.gather_rows(parallel_, {5, c, tokens.data(), nullptr, {}, nullptr}, x.data(),
                         gathered.data());
    RowCombine<T> combine;
    combine.tokens = 2;
    combine.columns = c;
    combine.top_k = 2;
    combine.slots = slots.data();
    combine.x = gathered.data();
    combine.base = base.data();
    kernels_.combine_rows(parallel_, combine, combined.data());
    hash_.Add(gathered);
    hash_.Add(combined);
  }

  void Loss() {
    const int64_t n = 11, c = 203;
    const std::vector<int64_t> targets = {0, 5, 202, 7, 9, 1, 3, 3, 8, 100, 150};
    const std::vector<uint8_t> mask = {1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1};
    auto logits = Fixed<T>(n * c, 23, 8);
    std::vector<float> loss(n), wide(n * c);
    kernels_.cross_entropy(parallel_, n, c, targets.data(), mask.data(), 0.25f, logits.data(),
                           loss.data());
    kernels_.to_float(parallel_, n * c, logits.data(), wide.data());
    kernels_.from_float(parallel_, n * c, wide.data(), logits.data());
    hash_.Add(logits);
    hash_.Add(loss);
    hash_.Add(wide);
  }

  // The three products of a layer: forward, gradient of the input, gradient of the weights.
  void Products() {
    if (kernels_.product == nullptr) return;
    const int64_t m = 37, n = 75, k = 131;
    for (const ProductShape& shape :
         {ProductShape{m, n, k, k, 1, 1, k, n, false}, ProductShape{m, n, k, k, 1, n, 1, n, true},
          ProductShape{m, n, k, 1, m, n, 1, n, false}}) {
      const auto a = Fixed<float>(m * k, 24), b = Fixed<float>(n * k, 25);
      std::vector<float> c(m * n, 0.25f), workspace(kernels_.product_workspace(shape));
      kernels_.product(parallel_, shape, a.data(), b.data(), c.data(), workspace.data());
      hash_.Add(c);
    }
  }

  void Attention() {
    const std::vector<int64_t> starts = {0, 150, 151, 230};
    AttentionShape<T> shape;
    shape.batch = 3;
    shape.length = 150;
    shape.heads = 4;
    shape.kv_heads = 2;
    shape.head_dim = 24;
    shape.stride = 200;
    shape.out_stride = 100;
    shape.starts = starts.data();
    std::vector<int32_t> first_key;
    for (int64_t row = 0; row < shape.batch; ++row) {
      for (int32_t i = 0; i < shape.Length(row); ++i) first_key.push_back(i / 37 * 37);
    }
    for (const bool documents : {false, true}) {
      shape.first_key = documents ? first_key.data() : nullptr;
      shape.dropout = documents ? &site_ : nullptr;
      OneAttention(shape);
    }
  }

  void OneAttention(const AttentionShape<T>& s) {
    const int64_t n = s.Tokens(), k = s.heads * s.head_dim, v = k + s.kv_heads * s.head_dim;
    const auto qkv = Fixed<T>(n * s.stride, 26, 2), d_out = Fixed<T>(n * s.out_stride, 27);
    std::vector<T> out(n * s.out_stride), dqkv(n * s.stride);
    std::vector<float> log2_sum(n * s.heads), work(kernels_.attention_workspace(s));
    std::vector<float> back(kernels_.attention_backward_workspace(s));
    kernels_.attention(parallel_, s, qkv.data(), qkv.data() + k, qkv.data() + v, out.data(),
                       log2_sum.data(), work.data());
    kernels_.attention_backward(parallel_, s, qkv.data(), qkv.data() + k, qkv.data() + v,
                                out.data(), log2_sum.data(), d_out.data(), dqkv.data(),
                                dqkv.data() + k, dqkv.data() + v, back.data());
    hash_.Add(out);
    hash_.Add(log2_sum);
    hash_.Add(dqkv);
  }

  void Optimizer() {
    const int64_t size = kSquareBlock + 77;
    const auto gradient = Fixed<float>(size, 28);
    auto parameters = Fixed<float>(size, 29), m = Fixed<float>(size, 30), v = m;
    for (float& x : v) x = x * x;
    std::vector<double> sums(2);
    std::vector<Bf16> copy(size);
    optimizer_.sum_squares(parallel_, size, gradient.data(), sums.data());
    const AdamWScalars scalars{0.5f, 0.999f, 0.1f, 0.999f, 0.001f, 0.01f, 1.5f, 1e-8f};
    optimizer_.adamw(parallel_, size, scalars, gradient.data(), parameters.data(), m.data(),
                     v.data(), copy.data());
    hash_.Add(sums);
    for (const auto& out : {parameters, m, v}) hash_.Add(out);
    hash_.Add(copy);
  }

  const TrainKernels<T>& kernels_;
  const OptimizerKernels& optimizer_;
  const Parallel parallel_;
  const DropoutSite site_{0x1234, 2 * kDropoutIndices, 1u << 30, 4.0f / 3};
  const std::vector<int32_t> row_ = {0, 0, 0, 1, 1, 1, 2, 2, 2};
  const std::vector<int32_t> position_ = {0, 1, 2, 0, 1, 2, 0, 1, 2};
  BitHash hash_;
};

class TrainKernelBits : public ::testing::TestWithParam<CpuIsa> {
 protected:
  template <typename T>
  void Check(const std::string& dtype) {
    const CpuIsa isa = GetParam();
    if (isa > DetectCpuIsa()) GTEST_SKIP() << "this processor does not have these kernels";
    const uint64_t hash = KernelRun<T>(isa, {}).Hash();
    EXPECT_EQ(hash, KernelRun<T>(isa, {RunOnThreeThreads, nullptr}).Hash())
        << "threads decide bits";
    const CpuFacts cpu{"AuthenticAMD", static_cast<CpuColumn>(isa), false};
    for (const TrainingNumerics& numerics : CpuTrainingNumerics(cpu, 1)) {
      if (numerics.dtype != dtype) continue;
      char words[32];
      std::snprintf(words, sizeof(words), "0x%016" PRIx64, hash);
      const auto recorded = RecordedHashes().find(numerics.name);
      if (recorded == RecordedHashes().end()) {
        GTEST_SKIP() << "NO HASH IS RECORDED for " << numerics.name << ": here it is " << words;
      }
      EXPECT_EQ(hash, recorded->second) << numerics.name << ": " << words << " moved";
    }
  }
};

TEST_P(TrainKernelBits, OfFloat32StayUnderOneName) { Check<float>("float32"); }
TEST_P(TrainKernelBits, OfBfloat16StayUnderOneName) { Check<Bf16>("bfloat16"); }

INSTANTIATE_TEST_SUITE_P(Every, TrainKernelBits,
                         ::testing::Values(CpuIsa::kBaseline, CpuIsa::kAvx2, CpuIsa::kAvx512,
                                           CpuIsa::kAvx512Bf16),
                         [](const auto& info) {
                           std::string name = CpuColumnName(static_cast<CpuColumn>(info.param));
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

// The agent, which links no kernels, must see the column that its trainers will use.
TEST(CpuFacts, SeesTheColumnThatTheKernelsUse) {
  EXPECT_EQ(static_cast<int>(FindCpuFacts().column), static_cast<int>(DetectCpuIsa()));
}

}  // namespace
}  // namespace mindforge
