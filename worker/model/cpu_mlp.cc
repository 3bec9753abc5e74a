#include "worker/model/cpu_mlp.h"

namespace mindforge {
namespace {

at::Tensor Gate(const at::Tensor& gate_up) { return gate_up.narrow(1, 0, gate_up.size(1) / 2); }
at::Tensor Up(const at::Tensor& gate_up) {
  return gate_up.narrow(1, gate_up.size(1) / 2, gate_up.size(1) / 2);
}

}  // namespace

template <typename T>
void SwigluUp(CpuPass<T>& pass, const MlpOffsets& at, const at::Tensor& x, at::Tensor gate_up) {
  pass.Multiply(gate_up, x, pass.Weights(at.gate_up, gate_up.size(1), x.size(1)).t());
  pass.AddAdapter(at.gate_adapter, x, Gate(gate_up));
  pass.AddAdapter(at.up_adapter, x, Up(gate_up));
}

template <typename T>
void SwigluDown(CpuPass<T>& pass, const MlpOffsets& at, const at::Tensor& inner, at::Tensor y) {
  pass.Multiply(y, inner, pass.Weights(at.down, y.size(1), inner.size(1)).t());
  pass.AddAdapter(at.down_adapter, inner, y);
}

template <typename T>
void SwigluDownBackward(CpuPass<T>& pass, const MlpOffsets& at, const at::Tensor& dy,
                        at::Tensor d_inner) {
  pass.Multiply(d_inner, dy, pass.Weights(at.down, dy.size(1), d_inner.size(1)));
  pass.AdapterInputGradient(at.down_adapter, dy, d_inner);
}

template <typename T>
void SwigluUpBackward(CpuPass<T>& pass, const MlpOffsets& at, const at::Tensor& d_gate_up,
                      bool accumulate, at::Tensor dx) {
  const at::Tensor weights = pass.Weights(at.gate_up, d_gate_up.size(1), dx.size(1));
  pass.Multiply(dx, d_gate_up, weights, accumulate);
  pass.AdapterInputGradient(at.gate_adapter, Gate(d_gate_up), dx);
  pass.AdapterInputGradient(at.up_adapter, Up(d_gate_up), dx);
}

template <typename T>
void SwigluDownGradient(CpuPass<T>& pass, const MlpOffsets& at, const at::Tensor& dy,
                        const at::Tensor& inner) {
  pass.WeightGradient(dy, inner, at.down);
  pass.AdapterGradient(at.down_adapter, inner, dy);
}

template <typename T>
void SwigluUpGradient(CpuPass<T>& pass, const MlpOffsets& at, const at::Tensor& d_gate_up,
                      const at::Tensor& x) {
  pass.WeightGradient(d_gate_up, x, at.gate_up);
  pass.AdapterGradient(at.gate_adapter, x, Gate(d_gate_up));
  pass.AdapterGradient(at.up_adapter, x, Up(d_gate_up));
}

template <typename T>
void MlpForward(CpuPass<T>& pass, int64_t layer) {
  if (pass.sizes.experts > 0) return ExpertsForward(pass, layer);
  CpuBuffers& b = pass.buffers;
  const MlpOffsets& at = pass.offsets.layers[layer].mlp;
  const at::Tensor& gate_up = b.layers[layer].gate_up;
  SwigluUp(pass, at, b.layers[layer].x2, gate_up);
  pass.kernels.swiglu(pass.parallel, pass.rows.size, pass.sizes.inner, nullptr, pass.Data(gate_up),
                      pass.Data(b.inner));
  SwigluDown(pass, at, b.inner, b.delta);
  if (pass.dropping()) pass.Drop(layer, DropoutPlace::kMlpOutput, 0, b.delta, b.delta);
}

template <typename T>
void MlpBackward(CpuPass<T>& pass, int64_t layer) {
  if (pass.sizes.experts > 0) return ExpertsBackward(pass, layer);
  CpuBuffers& b = pass.buffers;
  const MlpOffsets& at = pass.offsets.layers[layer].mlp;
  const at::Tensor& gate_up = b.layers[layer].gate_up;  // becomes its gradient
  const at::Tensor& dy = pass.OutputGradient(layer, DropoutPlace::kMlpOutput, 0);
  SwigluDownBackward(pass, at, dy, b.dinner);
  pass.kernels.swiglu_backward(pass.parallel, pass.rows.size, pass.sizes.inner, nullptr,
                               pass.Data(b.dinner), pass.Data(gate_up), pass.Data(b.inner),
                               nullptr);
  SwigluDownGradient(pass, at, dy, b.inner);
  SwigluUpBackward(pass, at, gate_up, /*accumulate=*/false, b.dx);
  SwigluUpGradient(pass, at, gate_up, b.layers[layer].x2);
}

#define MINDFORGE_INSTANTIATE_MLP(T)                                                               \
  template void MlpForward(CpuPass<T>&, int64_t);                                                  \
  template void MlpBackward(CpuPass<T>&, int64_t);                                                 \
  template void SwigluUp(CpuPass<T>&, const MlpOffsets&, const at::Tensor&, at::Tensor);           \
  template void SwigluDown(CpuPass<T>&, const MlpOffsets&, const at::Tensor&, at::Tensor);         \
  template void SwigluDownBackward(CpuPass<T>&, const MlpOffsets&, const at::Tensor&, at::Tensor); \
  template void SwigluUpBackward(CpuPass<T>&, const MlpOffsets&, const at::Tensor&, bool,          \
                                 at::Tensor);                                                      \
  template void SwigluDownGradient(CpuPass<T>&, const MlpOffsets&, const at::Tensor&,              \
                                   const at::Tensor&);                                             \
  template void SwigluUpGradient(CpuPass<T>&, const MlpOffsets&, const at::Tensor&,                \
                                 const at::Tensor&);

MINDFORGE_INSTANTIATE_MLP(float)
MINDFORGE_INSTANTIATE_MLP(Bf16)

}  // namespace mindforge
