#include "worker/model/aten_mlp.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

namespace mindforge {

at::Tensor ForwardMlp(const AtenPass& pass, const MlpPlace& place, const at::Tensor& x,
                      MlpState& state) {
  const int64_t hidden = pass.sizes.hidden;
  const int64_t inner = pass.sizes.inner;
  const MlpOffsets& at = place.at;
  state.gate_up = at::mm(x, Matrix(pass, at.gate_up, 2 * inner, hidden).t());
  const auto halves = state.gate_up.chunk(2, -1);
  AddAdapter(pass, at.gate_adapter, x, halves[0]);
  AddAdapter(pass, at.up_adapter, x, halves[1]);
  const at::Tensor product = at::silu(halves[0]) * halves[1];
  const at::Tensor y = at::mm(product, Matrix(pass, at.down, hidden, inner).t());
  AddAdapter(pass, at.down_adapter, product, y);
  state.keep = KeepMask(pass, place.layer, DropoutPlace::kMlpOutput, place.expert, place.rows,
                        place.positions, hidden);
  return Drop(y, state.keep, pass.config.dropout);
}

at::Tensor BackwardMlp(const AtenPass& pass, const MlpPlace& place, const at::Tensor& x,
                       const MlpState& state, const at::Tensor& dy) {
  const int64_t hidden = pass.sizes.hidden;
  const int64_t inner = pass.sizes.inner;
  const MlpOffsets& at = place.at;
  const at::Tensor d = Drop(dy, state.keep, pass.config.dropout);
  const auto halves = state.gate_up.chunk(2, -1);
  const at::Tensor activated = at::silu(halves[0]);
  const at::Tensor product = activated * halves[1];
  WeightGradient(pass, d, product, at.down);
  const at::Tensor dproduct = at::mm(d, Matrix(pass, at.down, hidden, inner));
  AdapterBackward(pass, at.down_adapter, product, d, dproduct);
  const at::Tensor dgate_up =
      at::cat({at::silu_backward(dproduct * halves[1], halves[0]), dproduct * activated}, -1);
  WeightGradient(pass, dgate_up, x, at.gate_up);
  const at::Tensor dx = at::mm(dgate_up, Matrix(pass, at.gate_up, 2 * inner, hidden));
  const auto dhalves = dgate_up.chunk(2, -1);
  AdapterBackward(pass, at.gate_adapter, x, dhalves[0], dx);
  AdapterBackward(pass, at.up_adapter, x, dhalves[1], dx);
  return dx;
}

}  // namespace mindforge
