// Times each CUDA kernel of training at the 26 M model's shape (hidden 512, inner 1408, vocabulary
// 6400) in bfloat16, beside what its bytes take at a memory rate: gpu_kernels [tokens] [GB/s].
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "worker/kernels/cuda/train_kernels_cuda.h"

namespace mindforge {
namespace {

void Check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "gpu_kernels: %s\n", cudaGetErrorString(error));
  std::exit(1);
}

template <typename E>
E* Allocate(int64_t size) {
  void* data = nullptr;
  Check(cudaMalloc(&data, static_cast<size_t>(size) * sizeof(E)));
  return static_cast<E*>(data);
}

template <typename E>
E* Put(const std::vector<E>& host) {
  E* data = Allocate<E>(static_cast<int64_t>(host.size()));
  Check(cudaMemcpy(data, host.data(), host.size() * sizeof(E), cudaMemcpyHostToDevice));
  return data;
}

void Assign(float value, float& out) { out = value; }
void Assign(float value, Bf16& out) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  out.bits = static_cast<uint16_t>(bits >> 16);
}

// Normal numbers; zeros would run faster than real data.
template <typename E>
E* Random(int64_t size) {
  std::mt19937_64 generator(1);
  std::normal_distribution<float> normal;
  std::vector<E> tile(static_cast<size_t>(std::min<int64_t>(size, 1 << 20)));
  for (E& x : tile) Assign(normal(generator), x);
  E* data = Allocate<E>(size);
  for (int64_t at = 0; at < size; at += static_cast<int64_t>(tile.size())) {
    const auto count = std::min(tile.size(), static_cast<size_t>(size - at));
    Check(cudaMemcpy(data + at, tile.data(), count * sizeof(E), cudaMemcpyHostToDevice));
  }
  return data;
}

// The median of `runs` runs, in microseconds.
double Time(const std::function<void()>& work) {
  constexpr int kRuns = 21;
  cudaEvent_t begin, end;
  Check(cudaEventCreate(&begin));
  Check(cudaEventCreate(&end));
  std::vector<float> times;
  for (int run = -3; run < kRuns; ++run) {
    Check(cudaEventRecord(begin));
    work();
    Check(cudaEventRecord(end));
    Check(cudaEventSynchronize(end));
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, begin, end));
    if (run >= 0) times.push_back(milliseconds);
  }
  Check(cudaGetLastError());
  std::nth_element(times.begin(), times.begin() + kRuns / 2, times.end());
  return static_cast<double>(times[kRuns / 2]) * 1e3;
}

double rate = 4100;  // GB/s

void Row(const char* name, double bytes, const std::function<void()>& work) {
  const double time = Time(work);
  const double floor = bytes / rate * 1e-3;
  std::printf("%-28s %9.1f %9.1f %6.2f\n", name, time, floor, time / floor);
}

constexpr int64_t kHidden = 512, kInner = 1408, kVocab = 6400, kHeads = 8, kKvHeads = 2;
constexpr int64_t kHeadDim = 64, kQkv = (kHeads + 2 * kKvHeads) * kHeadDim;
constexpr int64_t kParameters = 25829888;

void Dense(int64_t n) {
  const auto& k = CudaTrainKernels<Bf16>();
  const double unit = static_cast<double>(n * kHidden);
  std::mt19937_64 generator(2);
  std::vector<int64_t> ids(n), targets(n);
  std::vector<int32_t> positions(n);
  for (int64_t i = 0; i < n; ++i) {
    const double draw = static_cast<double>(generator() >> 11) * 0x1p-53;
    ids[i] = static_cast<int64_t>(kVocab * std::pow(draw, 4));
    targets[i] = static_cast<int64_t>(generator() % kVocab);
    positions[i] = static_cast<int32_t>(i % 512);
  }
  const auto* d_ids = Put(ids);
  const auto* d_targets = Put(targets);
  const auto* d_positions = Put(positions);
  auto* table = Random<float>(kVocab * kHidden);
  auto* h = Random<float>(n * kHidden);
  auto* h2 = Allocate<float>(n * kHidden);
  auto* dh = Random<float>(n * kHidden);
  auto* delta = Random<Bf16>(n * kHidden);
  auto* y = Allocate<Bf16>(n * kHidden);
  auto* w = Random<float>(kHidden);
  auto* dw = Allocate<float>(kHidden);
  auto* rstd = Random<float>(n);
  auto* partials = Allocate<float>(NormPartials(n) * kHidden);
  char* workspace = Allocate<char>(CudaEmbedBackwardWorkspace(n, kHidden, kVocab));
  Row("embed", 4 * unit, [=] { k.embed({}, n, kHidden, d_ids, table, h2); });
  Row("embed_backward", 4 * unit,
      [=] { CudaEmbedBackward({}, n, kHidden, kVocab, d_ids, dh, table, workspace); });
  Row("add_norm", 12 * unit, [=] { k.add_norm({}, n, kHidden, h, delta, w, 1e-5f, h2, rstd, y); });
  Row("norm_backward, dw, cast", 16 * unit,
      [=] { k.norm_backward({}, n, kHidden, delta, h, rstd, w, true, dh, y, dw, partials); });
  Row("from_float", 6 * unit, [=] { k.from_float({}, n * kHidden, h, y); });
  Row("to_float", 6 * unit, [=] { k.to_float({}, n * kHidden, y, h2); });
  const DropoutSite site{1, 0, 1u << 29, 1.1f};
  Row("dropout", 4 * unit, [=] {
    k.dropout({}, n, kHidden, {d_positions, d_positions}, site, 0, delta, y);
  });

  auto* qkv = Random<Bf16>(n * kQkv);
  auto* normed = Allocate<Bf16>(n * kQkv);
  const double heads = static_cast<double>(n * (kHeads + kKvHeads) * kHeadDim);
  const double all = static_cast<double>(n * kQkv);
  Row("rope", 4 * heads,
      [=] { k.rope({}, n, d_positions, kHeads + kKvHeads, kHeadDim, kQkv, h, h, 1, qkv); });
  const QkNormShape shape{n, kHeads, kKvHeads, kHeadDim, kQkv, 1e-5f, w, w};
  Row("qk_norm", 4 * all, [=] { k.qk_norm({}, shape, qkv, normed); });
  Row("qk_norm_backward", 6 * heads,
      [=] { k.qk_norm_backward({}, shape, qkv, normed, dw, dw + kHeadDim, partials); });

  auto* gate_up = Random<Bf16>(n * 2 * kInner);
  auto* a = Random<Bf16>(n * kInner);
  const double inner = static_cast<double>(n * kInner);
  Row("swiglu", 6 * inner, [=] { k.swiglu({}, n, kInner, nullptr, gate_up, a); });
  Row("swiglu_backward", 12 * inner,
      [=] { k.swiglu_backward({}, n, kInner, nullptr, a, gate_up, a, nullptr); });

  auto* logits = Random<Bf16>(n * kVocab);
  auto* sum = Allocate<double>(1);
  Row("cross_entropy", 4 * static_cast<double>(n * kVocab),
      [=] { k.cross_entropy({}, n, kVocab, d_targets, nullptr, 1.0f, logits, rstd); });
  Row("loss sum", 4 * static_cast<double>(n), [=] { CudaSumLosses({}, n, rstd, 1, sum, nullptr); });
}

void Experts(int64_t n) {
  const auto& k = CudaTrainKernels<Bf16>();
  const RouterShape shape{n, kHidden, 4, 2, true};
  auto* x = Random<Bf16>(n * kHidden);
  auto* slots_of = Random<Bf16>(2 * n * kHidden);
  auto* y = Allocate<Bf16>(n * kHidden);
  auto* w = Random<float>(4 * kHidden);
  auto* scores = Allocate<float>(n * 4);
  auto* weights = Allocate<float>(n * 2);
  auto* chosen = Allocate<int32_t>(n * 2);
  auto* d_logits = Random<float>(n * 4);
  auto* dw = Allocate<float>(4 * kHidden);
  std::vector<int32_t> slots(2 * n), tokens(2 * n);
  for (int64_t i = 0; i < 2 * n; ++i) {
    slots[i] = static_cast<int32_t>(i % 2 * n + i / 2);
    tokens[slots[i]] = static_cast<int32_t>(i / 2);
  }
  const auto* d_slots = Put(slots);
  const auto* d_tokens = Put(tokens);
  const double unit = static_cast<double>(n * kHidden);
  Row("route, 2 of 4", 2 * unit, [=] { k.route({}, shape, x, w, scores, chosen, weights); });
  Row("route_backward", 4 * static_cast<double>(n * 14), [=] {
    k.route_backward({}, shape, {scores, chosen, weights, d_slots, weights}, d_logits);
  });
  Row("router_weight_gradient", 2 * unit,
      [=] { k.router_weight_gradient({}, shape, d_logits, x, dw); });
  RowGather gather;
  gather.slots = 2 * n;
  gather.columns = kHidden;
  gather.tokens = d_tokens;
  Row("gather_rows", 6 * unit, [=] { k.gather_rows({}, gather, x, slots_of); });
  RowCombine<Bf16> combine;
  combine.tokens = n;
  combine.columns = kHidden;
  combine.top_k = 2;
  combine.slots = d_slots;
  combine.x = slots_of;
  Row("combine_rows", 6 * unit, [=] { k.combine_rows({}, combine, y); });
}

void Update() {
  const auto& k = CudaOptimizerKernels();
  auto* g = Random<float>(kParameters);
  auto* p = Random<float>(kParameters);
  auto* m = Random<float>(kParameters);
  auto* v = Allocate<float>(kParameters);
  Check(cudaMemset(v, 0, kParameters * sizeof(float)));
  auto* copy = Allocate<Bf16>(kParameters);
  auto* sums = Allocate<double>(kParameters / kSquareBlock + 1);
  auto* verdict = Allocate<CudaUpdateVerdict>(1);
  const AdamWScalars scalars{1, 0.9999f, 0.1f, 0.95f, 0.05f, 1e-3f, 1, 1e-8f};
  Row("sum_squares", 4.0 * kParameters, [=] { k.sum_squares({}, kParameters, g, sums); });
  Row("verdict", 8.0 * kParameters / kSquareBlock,
      [=] { CudaJudgeUpdate({}, kParameters, sums, 1, 1, verdict); });
  Row("adamw, verdict on device", 30.0 * kParameters,
      [=] { CudaAdamW({}, kParameters, scalars, verdict, g, p, m, v, copy); });
}

}  // namespace
}  // namespace mindforge

int main(int argc, char** argv) {
  const int64_t tokens = argc > 1 ? std::atoll(argv[1]) : 65536;
  if (argc > 2) mindforge::rate = std::atof(argv[2]);
  std::printf("%lld tokens, floor at %.0f GB/s\n%-28s %9s %9s %6s\n",
              static_cast<long long>(tokens), mindforge::rate, "kernel", "us", "floor", "ratio");
  mindforge::Dense(tokens);
  mindforge::Experts(tokens);
  mindforge::Update();
  return 0;
}
