// Elementwise, normalisation, loss, optimizer and attention kernels of training, behind plain
// functions over raw pointers: one table with a column of the CPU's and one of CUDA's
// (cuda/train_kernels_cuda.h). Torch-free. The CPU's exist once per instruction set and are chosen
// at run time. All cut their work into tasks by shape alone and reduce in a fixed order: on one
// instruction set or device the bits are the same for every number of threads or multiprocessors.
// A device's functions only enqueue, on Parallel's stream: every pointer is the device's, those in
// shapes too, but for a DropoutSite's. They neither wait nor allocate.
#pragma once

#include <stdint.h>

#include "worker/kernels/parallel.h"

namespace mindforge {

// Storage of a bfloat16; conversions round to nearest even.
struct Bf16 {
  uint16_t bits;
};
// Storage of a float16, for devices alone; conversions round to nearest even.
struct Half {
  uint16_t bits;
};

// Instruction sets with their own build of the kernels, each including the ones before.
enum class CpuIsa { kBaseline, kAvx2, kAvx512, kAvx512Bf16 };
// The best that this processor has.
CpuIsa DetectCpuIsa();

// Where each token of a flat list stands.
struct TokenPlaces {
  const int32_t* rows = nullptr;       // its row in the microbatch
  const int32_t* positions = nullptr;  // in the row
};

// One place of the model where elements are dropped. An element's random bits are a function of
// (key, stream, index, row, position, column) alone, on every instruction set: Philox's word
// column % 64 / 16 at the counter (position, row, column / 64 · 16 + column % 16, stream + index).
// It is kept, times `scale`, when they reach `threshold`. `index` numbers what a site has several
// of: heads or experts, fewer than kDropoutIndices.
struct DropoutSite {
  uint64_t key = 0;
  uint32_t stream = 0;     // a multiple of kDropoutIndices
  uint32_t threshold = 0;  // p · 2^32
  float scale = 1;         // 1 / (1 - p)
};
inline constexpr uint32_t kDropoutIndices = 4096;

// Causal grouped-query attention over rows of tokens, optionally confined to documents. q, k and v
// point at the first head's first element; each token's heads lie side by side, `stride` elements
// from one token to the next (so all three may be parts of one fused projection).
template <typename T>
struct AttentionShape {
  int64_t batch = 0;   // rows
  int64_t length = 0;  // tokens of a row, of the longest with `starts`
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;    // a multiple of 2, at most kMaxFusedHeadDim
  int64_t stride = 0;      // of q, k, v and their gradients
  int64_t out_stride = 0;  // of out and its gradient
  // [batch + 1]: the token each row starts at, rows lying end to end; null: all are `length` long.
  const int64_t* starts = nullptr;
  int64_t tokens = 0;  // of all rows; needed where `starts` is the device's
  // [tokens]: the first key each query may see, counted from its row's start, non-decreasing in a
  // row; null: 0.
  const int32_t* first_key = nullptr;
  // [tokens]: zero blocks a key (forward only); null: none. A query without keys gives 0.
  const uint8_t* key_mask = nullptr;
  // Drops probabilities of (row, query as position, key as column), index the head; null: none.
  const DropoutSite* dropout = nullptr;

  int64_t Start(int64_t row) const { return starts == nullptr ? row * length : starts[row]; }
  int64_t Length(int64_t row) const { return Start(row + 1) - Start(row); }
  int64_t Tokens() const { return Start(batch); }
};
inline constexpr int64_t kMaxFusedHeadDim = 256;

// The norms of q's and k's heads, which lie side by side at the front of each token's row.
struct QkNormShape {
  int64_t tokens = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t stride = 0;  // elements of a row; behind q and k they are copied
  float eps = 0;
  const float* q_weight = nullptr;  // [head_dim]
  const float* k_weight = nullptr;
};

// Choosing `top_k` of `experts` for each token.
struct RouterShape {
  int64_t tokens = 0;
  int64_t hidden = 0;
  int64_t experts = 0;
  int64_t top_k = 0;
  bool normalize = false;  // a token's weights sum to 1
};

// What the router's backward reads; a token's choices lie side by side.
struct RouterGradient {
  const float* scores = nullptr;     // [tokens, experts]
  const int32_t* chosen = nullptr;   // [tokens, top_k]
  const float* weights = nullptr;    // [tokens, top_k]
  const int32_t* slots = nullptr;    // [tokens, top_k]
  const float* d_weights = nullptr;  // [slots]
  // [rows, experts]: the balance loss's gradient of each score of a row; null: none.
  const float* balance = nullptr;
  const int32_t* rows = nullptr;  // [tokens]
};

// Rows of tokens copied to experts' slots.
struct RowGather {
  int64_t slots = 0;
  int64_t columns = 0;
  const int32_t* tokens = nullptr;  // [slots]; -1: a row of zeros
  // Drops elements, index the slot's expert; null: none.
  const DropoutSite* dropout = nullptr;
  TokenPlaces places;
  const int32_t* experts = nullptr;  // [slots]
};

// Each token's sum of a base, of the rows in its slots in the order of its choices, and of its
// router gradient.
template <typename T>
struct RowCombine {
  int64_t tokens = 0;
  int64_t columns = 0;
  int64_t top_k = 0;
  const int32_t* slots = nullptr;  // [tokens, top_k]
  const T* x = nullptr;            // [slots, columns]
  const T* base = nullptr;         // [tokens, columns], may be the output; null: 0
  // Drops what comes from x, index the expert; null: none. REQUIRES then: no router.
  const DropoutSite* dropout = nullptr;
  TokenPlaces places;
  const int32_t* chosen = nullptr;  // [tokens, top_k]
  int64_t experts = 0;              // 0: no router
  const float* router = nullptr;    // [experts, columns]
  const float* d_logits = nullptr;  // [tokens, experts]
};

// c[m, n] (+)= a[m, k] · b[k, n]; a step to the next row or column of each in elements.
struct ProductShape {
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;  // at least 1
  int64_t a_row = 0;
  int64_t a_column = 1;
  int64_t b_row = 0;
  int64_t b_column = 1;
  int64_t c_row = 0;
  bool accumulate = false;
};

// AdamW's scalars of one step, see worker/model/adamw.h.
struct AdamWScalars {
  float gradient_scale;
  float decay;  // 1 - lr · weight_decay
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float step_size;      // lr / (1 - beta1^t)
  float inverse_bias2;  // 1 / sqrt(1 - beta2^t)
  float epsilon;
};

// Kernels for activations of type T (float or Bf16); residuals, norms' weights and statistics are
// float32. n: rows (tokens), c: columns. Buffers must not overlap unless said so.
template <typename T>
struct TrainKernels {
  // h[n, c] = table[ids[n], c].
  void (*embed)(const Parallel&, int64_t n, int64_t c, const int64_t* ids, const float* table,
                float* h);
  // table_gradient[ids[n], c] += dh[n, c], rows in order.
  void (*embed_backward)(const Parallel&, int64_t n, int64_t c, const int64_t* ids, const float* dh,
                         float* table_gradient);
  // h = residual + delta (h may be residual; no delta: h = residual and h may be null);
  // rstd = 1/sqrt(mean(h²) + eps); y = h · rstd · w.
  void (*add_norm)(const Parallel&, int64_t n, int64_t c, const float* residual, const T* delta,
                   const float* w, float eps, float* h, float* rstd, T* y);
  // dh += gradient through y = norm(h) · w; dw[c] = its weight gradient. `accumulate` false: dh is
  // written. dh_cast, unless null, receives dh as T. `partials`: NormPartials(n) · c floats. No dw:
  // it is not computed and partials may be null.
  void (*norm_backward)(const Parallel&, int64_t n, int64_t c, const T* dy, const float* h,
                        const float* rstd, const float* w, bool accumulate, float* dh, T* dh_cast,
                        float* dw, float* partials);
  // Rotates `heads` heads of head_dim at each token of x in place by RopeTables' row positions[n];
  // sign -1 undoes it.
  void (*rope)(const Parallel&, int64_t n, const int32_t* positions, int64_t heads,
               int64_t head_dim, int64_t stride, const float* cos, const float* sin, float sign,
               T* x);
  // y = x, but each head of q and k normed and weighted: head · rsqrt(mean(head²) + eps) · weight.
  void (*qk_norm)(const Parallel&, const QkNormShape&, const T* x, T* y);
  // dy becomes dx; dwq and dwk (null: not written) the weights' gradients. `partials`:
  // NormPartials(tokens) · 2 · head_dim floats.
  void (*qk_norm_backward)(const Parallel&, const QkNormShape&, const T* x, T* dy, float* dwq,
                           float* dwk, float* partials);
  // a[n, c] = silu(gate) · up with gate_up[n, 2c] = gate | up, times row_scale[n] unless null.
  void (*swiglu)(const Parallel&, int64_t n, int64_t c, const float* row_scale, const T* gate_up,
                 T* a);
  // From da: gate_up becomes its gradient, a is computed again (a may be da). With row_scale,
  // d_row_scale[n] receives its gradient.
  void (*swiglu_backward)(const Parallel&, int64_t n, int64_t c, const float* row_scale,
                          const T* da, T* gate_up, T* a, float* d_row_scale);
  // y = x with dropped elements; y may be x. n rows of c columns.
  void (*dropout)(const Parallel&, int64_t n, int64_t c, const TokenPlaces&, const DropoutSite&,
                  int64_t index, const T* x, T* y);

  // scores = softmax(x · wᵀ) in float32; the experts with the largest, the lowest index first
  // among equals, and their weights.
  void (*route)(const Parallel&, const RouterShape&, const T* x, const float* w, float* scores,
                int32_t* chosen, float* weights);
  void (*gather_rows)(const Parallel&, const RowGather&, const T* x, T* out);
  void (*combine_rows)(const Parallel&, const RowCombine<T>&, T* out);
  // d_logits[tokens, experts], the gradient of x · wᵀ.
  void (*route_backward)(const Parallel&, const RouterShape&, const RouterGradient&,
                         float* d_logits);
  // dw[experts, hidden] = d_logitsᵀ · x.
  void (*router_weight_gradient)(const Parallel&, const RouterShape&, const float* d_logits,
                                 const T* x, float* dw);

  // Logits become their gradient, scale · (softmax - onehot(target)), and row_loss[n] the cross
  // entropy; rows with mask 0 (mask may be null) become zero.
  void (*cross_entropy)(const Parallel&, int64_t n, int64_t c, const int64_t* targets,
                        const uint8_t* mask, float scale, T* logits, float* row_loss);
  // y[i] = T(x[i]) and the other way round.
  void (*from_float)(const Parallel&, int64_t size, const float* x, T* y);
  void (*to_float)(const Parallel&, int64_t size, const T* x, float* y);

  // The product of float matrices; null in the bfloat16 tables, whose products are LibTorch's.
  void (*product)(const Parallel&, const ProductShape&, const float* a, const float* b, float* c,
                  float* workspace) = nullptr;
  // Floats of workspace for it.
  int64_t (*product_workspace)(const ProductShape&) = nullptr;
  // It is faster here than LibTorch's. A device's signature names the processor's maker, so a job
  // never mixes them.
  bool prefers_product = false;

  // Floats of workspace the attention calls below need.
  int64_t (*attention_workspace)(const AttentionShape<T>& shape);
  int64_t (*attention_backward_workspace)(const AttentionShape<T>& shape);
  // out and log2_sum [heads, tokens] (log2 of the softmax denominator).
  void (*attention)(const Parallel&, const AttentionShape<T>&, const T* q, const T* k, const T* v,
                    T* out, float* log2_sum, float* workspace);
  void (*attention_backward)(const Parallel&, const AttentionShape<T>&, const T* q, const T* k,
                             const T* v, const T* out, const float* log2_sum, const T* d_out, T* dq,
                             T* dk, T* dv, float* workspace);
  // The multipliers 0 and scale of plain attention's probabilities, [batch, heads, length, length],
  // the same as the fused kernels'.
  void (*dropout_scores)(const Parallel&, int64_t batch, int64_t heads, int64_t length,
                         const DropoutSite&, float* out);
};

// Rows of the partial sums that norm_backward needs.
inline constexpr int64_t kNormBlockRows = 32;
inline int64_t NormPartials(int64_t n) { return (n + kNormBlockRows - 1) / kNormBlockRows; }

// Optimizer kernels over flat buffers.
struct OptimizerKernels {
  // sums[i] = sum of squares of block i of kSquareBlock elements; (size + kSquareBlock - 1) /
  // kSquareBlock sums.
  void (*sum_squares)(const Parallel&, int64_t size, const float* x, double* sums);
  // One AdamW update; `copy` (may be null) receives the new parameters as bfloat16.
  void (*adamw)(const Parallel&, int64_t size, const AdamWScalars&, const float* gradient,
                float* parameters, float* m, float* v, Bf16* copy);
};
inline constexpr int64_t kSquareBlock = 8192;

template <typename T>
const TrainKernels<T>& GetTrainKernels(CpuIsa isa);
template <>
const TrainKernels<float>& GetTrainKernels<float>(CpuIsa isa);
template <>
const TrainKernels<Bf16>& GetTrainKernels<Bf16>(CpuIsa isa);
const OptimizerKernels& GetOptimizerKernels(CpuIsa isa);

}  // namespace mindforge
