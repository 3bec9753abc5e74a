// The feed-forward block on the CPU: one SwiGLU, or a mixture of experts.
#pragma once

#include "worker/model/cpu_pass.h"

namespace mindforge {

// buffers.delta = the block's output of the layer's x2; adds the layer's balance loss to
// pass.auxiliary_loss when training.
template <typename T>
void MlpForward(CpuPass<T>& pass, int64_t layer);

// From buffers.dh_cast, the output's gradient: weights' gradients, and buffers.dx, that of x2.
template <typename T>
void MlpBackward(CpuPass<T>& pass, int64_t layer);

// One SwiGLU's products over any run of rows, adapters included.
// gate_up = gate and up of x, side by side.
template <typename T>
void SwigluUp(CpuPass<T>& pass, const MlpOffsets& at, const at::Tensor& x, at::Tensor gate_up);
template <typename T>
void SwigluDown(CpuPass<T>& pass, const MlpOffsets& at, const at::Tensor& inner, at::Tensor y);
// d_inner, the gradient of what goes down.
template <typename T>
void SwigluDownBackward(CpuPass<T>& pass, const MlpOffsets& at, const at::Tensor& dy,
                        at::Tensor d_inner);
// dx, the gradient of x; added with `accumulate`.
template <typename T>
void SwigluUpBackward(CpuPass<T>& pass, const MlpOffsets& at, const at::Tensor& d_gate_up,
                      bool accumulate, at::Tensor dx);
// The weights' gradients.
template <typename T>
void SwigluDownGradient(CpuPass<T>& pass, const MlpOffsets& at, const at::Tensor& dy,
                        const at::Tensor& inner);
template <typename T>
void SwigluUpGradient(CpuPass<T>& pass, const MlpOffsets& at, const at::Tensor& d_gate_up,
                      const at::Tensor& x);

// A mixture of experts, as MlpForward and MlpBackward.
template <typename T>
void ExpertsForward(CpuPass<T>& pass, int64_t layer);
template <typename T>
void ExpertsBackward(CpuPass<T>& pass, int64_t layer);

}  // namespace mindforge
