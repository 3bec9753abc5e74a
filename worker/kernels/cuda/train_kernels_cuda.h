// The CUDA columns of the kernels' tables, for compute capability 8.0 and newer. All functions only
// enqueue on Parallel's stream; launch errors are found with cudaGetLastError. No atomics, and the
// bits depend on the arguments alone, not on the card's size or the run. Thread-safe.
#pragma once

#include "worker/kernels/train_kernels.h"

namespace mindforge {

// T: float (exact float32), Bf16 or Half. Two entries are null: embed_backward, for which see
// CudaEmbedBackward, and product.
template <typename T>
const TrainKernels<T>& CudaTrainKernels();
template <>
const TrainKernels<float>& CudaTrainKernels<float>();
template <>
const TrainKernels<Bf16>& CudaTrainKernels<Bf16>();
template <>
const TrainKernels<Half>& CudaTrainKernels<Half>();
const OptimizerKernels& CudaOptimizerKernels();

// TrainKernels::embed_backward, by the order of the ids: it takes the ids' number, `vocab`, and a
// workspace of that many bytes on the device, aligned to 256. A row's sums are made in chunks of 64
// rows, in order, and added to the table's gradient in order.
int64_t CudaEmbedBackwardWorkspace(int64_t n, int64_t c, int64_t vocab);
void CudaEmbedBackward(const Parallel&, int64_t n, int64_t c, int64_t vocab, const int64_t* ids,
                       const float* dh, float* table_gradient, void* workspace);

// *sum = Σ row_loss[n], *scaled = scale · the same, both on the device; null: not written. Rows of
// loss 0 behind the last change no bit.
void CudaSumLosses(const Parallel&, int64_t n, const float* row_loss, double scale, double* sum,
                   float* scaled);

// What an update saw, on the device.
struct CudaUpdateVerdict {
  double gradient_norm = 0;  // global L2 norm after the scale, before the clip
  float gradient_scale = 0;  // what the gradient is multiplied with, the clip among it
  int32_t apply = 0;         // 0: the norm is not finite and nothing may change
};

// From the sums of OptimizerKernels::sum_squares over `size` elements of a gradient that counts
// times `scale`; clip_norm 0: no clip.
void CudaJudgeUpdate(const Parallel&, int64_t size, const double* sums, double scale,
                     double clip_norm, CudaUpdateVerdict* verdict);

// OptimizerKernels::adamw with the scale and whether to apply it from `verdict`, which is on the
// device, in place of scalars.gradient_scale. T: Bf16 or Half, what `copy` (may be null) receives.
template <typename T>
void CudaAdamW(const Parallel&, int64_t size, const AdamWScalars& scalars,
               const CudaUpdateVerdict* verdict, const float* gradient, float* parameters, float* m,
               float* v, T* copy);

}  // namespace mindforge
