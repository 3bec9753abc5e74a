// SwiGLU of the composed backend: a dense layer's, an expert's or a shared expert's.
#pragma once

#include <ATen/core/Tensor.h>

#include "worker/model/aten_ops.h"

namespace mindforge {

// Which MLP, and which tokens it sees.
struct MlpPlace {
  const MlpOffsets& at;
  int64_t layer = 0;
  int64_t expert = 0;          // shared experts behind the routed ones
  at::Tensor rows, positions;  // int64 [n], see AtenPass; needed with dropout
};

// What the backward needs of the forward.
struct MlpState {
  at::Tensor gate_up;  // T [n, 2 · inner]
  at::Tensor keep;     // bool [n, hidden]; undefined without dropout
};

// T [n, hidden] of x T [n, hidden].
at::Tensor ForwardMlp(const AtenPass& pass, const MlpPlace& place, const at::Tensor& x,
                      MlpState& state);
// The gradient of x, T, from that of the result, T; the weights' into the pass's gradient.
at::Tensor BackwardMlp(const AtenPass& pass, const MlpPlace& place, const at::Tensor& x,
                       const MlpState& state, const at::Tensor& dy);

}  // namespace mindforge
