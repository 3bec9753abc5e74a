// The products of one SwiGLU over any run of rows, adapters included.
#pragma once

#include "worker/model/pass.h"

namespace mindforge {

// gate_up = gate and up of x, side by side.
template <typename T>
void SwigluUp(Pass<T>& pass, const MlpOffsets& at, const at::Tensor& x, at::Tensor gate_up);
template <typename T>
void SwigluDown(Pass<T>& pass, const MlpOffsets& at, const at::Tensor& inner, at::Tensor y);
// d_inner, the gradient of what goes down.
template <typename T>
void SwigluDownBackward(Pass<T>& pass, const MlpOffsets& at, const at::Tensor& dy,
                        at::Tensor d_inner);
// dx, the gradient of x; added with `accumulate`.
template <typename T>
void SwigluUpBackward(Pass<T>& pass, const MlpOffsets& at, const at::Tensor& d_gate_up,
                      bool accumulate, at::Tensor dx);
// The weights' gradients.
template <typename T>
void SwigluDownGradient(Pass<T>& pass, const MlpOffsets& at, const at::Tensor& dy,
                        const at::Tensor& inner);
template <typename T>
void SwigluUpGradient(Pass<T>& pass, const MlpOffsets& at, const at::Tensor& d_gate_up,
                      const at::Tensor& x);

}  // namespace mindforge
