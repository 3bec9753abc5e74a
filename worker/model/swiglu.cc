#include "worker/model/swiglu.h"

namespace mindforge {
namespace {

at::Tensor Gate(const at::Tensor& gate_up) { return gate_up.narrow(1, 0, gate_up.size(1) / 2); }
at::Tensor Up(const at::Tensor& gate_up) {
  return gate_up.narrow(1, gate_up.size(1) / 2, gate_up.size(1) / 2);
}

}  // namespace

template <typename T>
void SwigluUp(Pass<T>& pass, const MlpOffsets& at, const at::Tensor& x, at::Tensor gate_up) {
  pass.Multiply(gate_up, x, pass.Weights(at.gate_up, gate_up.size(1), x.size(1)).t());
  pass.AddAdapter(at.gate_adapter, x, Gate(gate_up));
  pass.AddAdapter(at.up_adapter, x, Up(gate_up));
}

template <typename T>
void SwigluDown(Pass<T>& pass, const MlpOffsets& at, const at::Tensor& inner, at::Tensor y) {
  pass.Multiply(y, inner, pass.Weights(at.down, y.size(1), inner.size(1)).t());
  pass.AddAdapter(at.down_adapter, inner, y);
}

template <typename T>
void SwigluDownBackward(Pass<T>& pass, const MlpOffsets& at, const at::Tensor& dy,
                        at::Tensor d_inner) {
  pass.Multiply(d_inner, dy, pass.Weights(at.down, dy.size(1), d_inner.size(1)));
  pass.AdapterInputGradient(at.down_adapter, dy, d_inner);
}

template <typename T>
void SwigluUpBackward(Pass<T>& pass, const MlpOffsets& at, const at::Tensor& d_gate_up,
                      bool accumulate, at::Tensor dx) {
  const at::Tensor weights = pass.Weights(at.gate_up, d_gate_up.size(1), dx.size(1));
  pass.Multiply(dx, d_gate_up, weights, accumulate);
  pass.AdapterInputGradient(at.gate_adapter, Gate(d_gate_up), dx);
  pass.AdapterInputGradient(at.up_adapter, Up(d_gate_up), dx);
}

template <typename T>
void SwigluDownGradient(Pass<T>& pass, const MlpOffsets& at, const at::Tensor& dy,
                        const at::Tensor& inner) {
  pass.WeightGradient(dy, inner, at.down);
  pass.AdapterGradient(at.down_adapter, inner, dy);
}

template <typename T>
void SwigluUpGradient(Pass<T>& pass, const MlpOffsets& at, const at::Tensor& d_gate_up,
                      const at::Tensor& x) {
  pass.WeightGradient(d_gate_up, x, at.gate_up);
  pass.AdapterGradient(at.gate_adapter, x, Gate(d_gate_up));
  pass.AdapterGradient(at.up_adapter, x, Up(d_gate_up));
}

#define MINDFORGE_INSTANTIATE(T)                                                                \
  template void SwigluUp(Pass<T>&, const MlpOffsets&, const at::Tensor&, at::Tensor);           \
  template void SwigluDown(Pass<T>&, const MlpOffsets&, const at::Tensor&, at::Tensor);         \
  template void SwigluDownBackward(Pass<T>&, const MlpOffsets&, const at::Tensor&, at::Tensor); \
  template void SwigluUpBackward(Pass<T>&, const MlpOffsets&, const at::Tensor&, bool,          \
                                 at::Tensor);                                                   \
  template void SwigluDownGradient(Pass<T>&, const MlpOffsets&, const at::Tensor&,              \
                                   const at::Tensor&);                                          \
  template void SwigluUpGradient(Pass<T>&, const MlpOffsets&, const at::Tensor&, const at::Tensor&);
MINDFORGE_FOR_COMPUTE_TYPES(MINDFORGE_INSTANTIATE)

}  // namespace mindforge
