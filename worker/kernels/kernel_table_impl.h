// Fills the function tables of one instruction set. See simd.h for how such a file is included.
#pragma once

#include "worker/kernels/attention_impl.h"
#include "worker/kernels/optimizer_impl.h"
#include "worker/kernels/rows_impl.h"

namespace mindforge {
namespace MINDFORGE_ISA {

template <typename T>
TrainKernels<T> MakeTrainKernels() {
  TrainKernels<T> k;
  k.embed = Embed;
  k.embed_backward = EmbedBackward;
  k.add_norm = AddNorm<T>;
  k.norm_backward = NormBackward<T>;
  k.rope = Rope<T>;
  k.swiglu = SwiGlu<T>;
  k.swiglu_backward = SwiGluBackward<T>;
  k.cross_entropy = CrossEntropy<T>;
  k.from_float = Convert<float, T>;
  k.to_float = Convert<T, float>;
  k.attention_workspace = AttentionWorkspace<T>;
  k.attention_backward_workspace = AttentionBackwardWorkspace<T>;
  k.attention = Attention<T>;
  k.attention_backward = AttentionBackward<T>;
  return k;
}

inline OptimizerKernels MakeOptimizerKernels() { return {SumSquares, AdamW}; }

}  // namespace MINDFORGE_ISA
}  // namespace mindforge
