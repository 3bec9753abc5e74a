// Fills the function tables of one instruction set. See simd.h for how such a file is included.
#pragma once

#include "worker/kernels/attention_impl.h"
#include "worker/kernels/dropout_impl.h"
#include "worker/kernels/moe_impl.h"
#include "worker/kernels/optimizer_impl.h"
#include "worker/kernels/product_impl.h"
#include "worker/kernels/qk_norm_impl.h"
#include "worker/kernels/rows_impl.h"

namespace mindforge {
namespace MINDFORGE_ISA {

// The library that LibTorch multiplies floats with is at its best on Intel's processors and falls
// behind this product on others.
inline void AddProduct(TrainKernels<float>* kernels) {
  __builtin_cpu_init();
  kernels->product = MatrixProduct;
  kernels->product_workspace = MatrixProductWorkspace;
  kernels->prefers_product = W > 4 && !__builtin_cpu_is("intel");
}
inline void AddProduct(TrainKernels<Bf16>*) {}

template <typename T>
TrainKernels<T> MakeTrainKernels() {
  TrainKernels<T> k;
  k.embed = Embed;
  k.embed_backward = EmbedBackward;
  k.add_norm = AddNorm<T>;
  k.norm_backward = NormBackward<T>;
  k.rope = Rope<T>;
  k.qk_norm = QkNorm<T>;
  k.qk_norm_backward = QkNormBackward<T>;
  k.swiglu = SwiGlu<T>;
  k.swiglu_backward = SwiGluBackward<T>;
  k.dropout = Dropout<T>;
  k.route = Route<T>;
  k.gather_rows = GatherRows<T>;
  k.combine_rows = CombineRows<T>;
  k.route_backward = RouteBackward;
  k.router_weight_gradient = RouterWeightGradient<T>;
  k.cross_entropy = CrossEntropy<T>;
  k.from_float = Convert<float, T>;
  k.to_float = Convert<T, float>;
  k.attention_workspace = AttentionWorkspace<T>;
  k.attention_backward_workspace = AttentionBackwardWorkspace<T>;
  k.attention = Attention<T>;
  k.attention_backward = AttentionBackward<T>;
  k.dropout_scores = DropoutScores;
  AddProduct(&k);
  return k;
}

inline OptimizerKernels MakeOptimizerKernels() { return {SumSquares, AdamW}; }

}  // namespace MINDFORGE_ISA
}  // namespace mindforge
