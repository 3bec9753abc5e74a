// Attention's tensor-core kernels of head_dim 80.
#include "worker/kernels/cuda/attention_launch.cuh"

namespace mindforge::cuda {

template void TensorForward<Bf16, 80>(cudaStream_t, const Attention&, const AttentionInputs<Bf16>&,
                                      Bf16*, float*);
template void TensorForward<Half, 80>(cudaStream_t, const Attention&, const AttentionInputs<Half>&,
                                      Half*, float*);
template void TensorBackward<Bf16, 80>(cudaStream_t, const Attention&, const AttentionInputs<Bf16>&,
                                       const AttentionGradients<Bf16>&);
template void TensorBackward<Half, 80>(cudaStream_t, const Attention&, const AttentionInputs<Half>&,
                                       const AttentionGradients<Half>&);

}  // namespace mindforge::cuda
