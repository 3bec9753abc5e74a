// What the model and the optimizer need of the device they run on: its column of the kernels and
// where kernels run. Everything else they do is the same on every device.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>

#include "worker/kernels/train_kernels.h"

namespace mindforge {

// The column of `device`. T: float or Bf16, on CUDA also Half. REQUIRES: a GPU's is built in.
template <typename T>
const TrainKernels<T>& KernelsOf(c10::Device device);
const OptimizerKernels& OptimizerKernelsOf(c10::Device device);

// Kernels run on LibTorch's own threads, at::get_num_threads() of them, or on a GPU in its current
// stream.
Parallel ParallelOf(c10::Device device);

// Products and sums of LibTorch have the same bits on every run: exact float32, no sums in 16 bits.
// Before the first of them.
void MakeDeterministic(c10::Device device);

// TrainKernels::embed_backward, which on a GPU sorts the ids below `vocab`, and its floats of
// workspace.
int64_t EmbedBackwardWorkspace(c10::Device device, int64_t n, int64_t c, int64_t vocab);
template <typename T>
void EmbedBackward(c10::Device device, const Parallel& parallel, int64_t n, int64_t c,
                   int64_t vocab, const int64_t* ids, const float* dh, float* table_gradient,
                   float* workspace);

// Of the cross entropies of rows, float32: their sum in float64, which waits for the device; and
// sum / counted + auxiliary as a float32 scalar on the device, which does not.
double OrderedSum(const at::Tensor& row_losses);
at::Tensor MeanLoss(const at::Tensor& row_losses, int64_t counted, double auxiliary);

// Throws c10::Error when a kernel enqueued by this thread could not be launched.
void CheckLaunches(c10::Device device);

}  // namespace mindforge
