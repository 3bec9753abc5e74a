#include "worker/kernels/cuda/attention.h"
#include "worker/kernels/cuda/kernels.h"
#include "worker/kernels/cuda/train_kernels_cuda.h"

namespace mindforge {
namespace {

template <typename T>
TrainKernels<T> MakeCudaTrainKernels() {
  TrainKernels<T> k{};
  k.embed = cuda::Embed;
  k.add_norm = cuda::AddNorm<T>;
  k.norm_backward = cuda::NormBackward<T>;
  k.rope = cuda::Rope<T>;
  k.qk_norm = cuda::QkNorm<T>;
  k.qk_norm_backward = cuda::QkNormBackward<T>;
  k.swiglu = cuda::SwiGlu<T>;
  k.swiglu_backward = cuda::SwiGluBackward<T>;
  k.dropout = cuda::Dropout<T>;
  k.route = cuda::Route<T>;
  k.gather_rows = cuda::GatherRows<T>;
  k.combine_rows = cuda::CombineRows<T>;
  k.route_backward = cuda::RouteBackward;
  k.router_weight_gradient = cuda::RouterWeightGradient<T>;
  k.cross_entropy = cuda::CrossEntropy<T>;
  k.from_float = cuda::FromFloat<T>;
  k.to_float = cuda::ConvertToFloat<T>;
  k.attention_workspace = CudaAttentionWorkspace<T>;
  k.attention_backward_workspace = CudaAttentionBackwardWorkspace<T>;
  k.attention = CudaAttention<T>;
  k.attention_backward = CudaAttentionBackward<T>;
  k.dropout_scores = cuda::DropoutScores;
  return k;
}

}  // namespace

template <>
const TrainKernels<float>& CudaTrainKernels<float>() {
  static const TrainKernels<float> table = MakeCudaTrainKernels<float>();
  return table;
}
template <>
const TrainKernels<Bf16>& CudaTrainKernels<Bf16>() {
  static const TrainKernels<Bf16> table = MakeCudaTrainKernels<Bf16>();
  return table;
}
template <>
const TrainKernels<Half>& CudaTrainKernels<Half>() {
  static const TrainKernels<Half> table = MakeCudaTrainKernels<Half>();
  return table;
}

const OptimizerKernels& CudaOptimizerKernels() {
  static const OptimizerKernels table{cuda::SumSquares, cuda::AdamW};
  return table;
}

}  // namespace mindforge
