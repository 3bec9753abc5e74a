// The mixture of experts of the composed backend. Tokens are sorted by expert, each expert computes
// its run of them, and sorting back is a gather, so there are no atomics and the bits depend on the
// input alone. The runs' lengths are read by the host: one wait for the device per layer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "worker/model/aten_mlp.h"
#include "worker/model/aten_ops.h"

namespace mindforge {

// A microbatch's layer. n = batch · length tokens, k choices each.
struct MoePlace {
  const LayerOffsets& at;
  int64_t layer, batch, length;
};

// What the backward needs of the forward.
struct MoeState {
  at::Tensor scores;            // f32 [n, E]
  at::Tensor choices;           // int64 [n, k], best first
  at::Tensor raw, weights;      // f32 [n, k]: the choices' scores, and after normalisation
  at::Tensor order, back;       // int64 [n · k]: choices sorted by expert, and the way back
  at::Tensor rows, positions;   // int64 [n · k] with dropout: AtenPass's, sorted by expert
  std::vector<int64_t> counts;  // per expert
  at::Tensor inputs;            // T [n · k, hidden], sorted by expert
  at::Tensor outputs;           // T [n, k, hidden]
  at::Tensor load;              // f32 [B or 1, E]: how much of its share an expert got
  std::vector<MlpState> experts, shared;
  at::Tensor auxiliary;  // f32 scalar, undefined unless training
};

// f32 [n, hidden] of x T [n, hidden].
at::Tensor ForwardMoe(const AtenPass& pass, const MoePlace& place, const at::Tensor& x,
                      MoeState& state);
// The gradient of x, f32, from that of the result, f32 [n, hidden]; it includes the auxiliary
// loss's.
at::Tensor BackwardMoe(const AtenPass& pass, const MoePlace& place, const at::Tensor& x,
                       const MoeState& state, const at::Tensor& dy);

}  // namespace mindforge
