#include "worker/model/layer.h"

#include "worker/model/attention.h"
#include "worker/model/experts.h"
#include "worker/model/swiglu.h"

namespace mindforge {
namespace {

template <typename T>
void Rotate(const Pass<T>& pass, float sign, const at::Tensor& qkv) {
  const ModelSizes& s = pass.sizes;
  pass.kernels.rope(pass.parallel, pass.rows.size, pass.arrays.positions, s.heads + s.kv_heads,
                    s.head_dim, s.qkv, pass.arrays.rope_cos, pass.arrays.rope_sin, sign,
                    pass.Data(qkv));
}

template <typename T>
QkNormShape NormShape(const Pass<T>& pass, const LayerOffsets& at) {
  QkNormShape shape;
  shape.tokens = pass.rows.size;
  shape.heads = pass.sizes.heads;
  shape.kv_heads = pass.sizes.kv_heads;
  shape.head_dim = pass.sizes.head_dim;
  shape.stride = pass.sizes.qkv;
  shape.eps = static_cast<float>(pass.config.rms_norm_eps);
  shape.q_weight = pass.Master(at.q_norm);
  shape.k_weight = pass.Master(at.k_norm);
  return shape;
}

// delta of x1.
template <typename T>
void AttentionForward(Pass<T>& pass, int64_t index) {
  LayerBuffers& layer = pass.buffers.layers[index];
  const LayerOffsets& at = pass.offsets.layers[index];
  const ModelSizes& s = pass.sizes;
  const QkvParts parts(s);
  at::Tensor& projected = s.qk_norm ? layer.projected : layer.qkv;
  pass.Multiply(projected, layer.x1, pass.Weights(at.qkv, s.qkv, s.hidden).t());
  pass.AddAdapter(at.q_adapter, layer.x1, projected.narrow(1, parts.q, s.attention));
  pass.AddAdapter(at.k_adapter, layer.x1, projected.narrow(1, parts.k, parts.kv_size));
  pass.AddAdapter(at.v_adapter, layer.x1, projected.narrow(1, parts.v, parts.kv_size));
  if (s.qk_norm) {
    pass.kernels.qk_norm(pass.parallel, NormShape(pass, at), pass.Data(projected),
                         pass.Data(layer.qkv));
  }
  Rotate(pass, 1.0f, layer.qkv);
  Attend(pass, index);
  at::Tensor& out = pass.buffers.delta;
  pass.Multiply(out, layer.attention, pass.Weights(at.o, s.hidden, s.attention).t());
  pass.AddAdapter(at.o_adapter, layer.attention, out);
  if (pass.dropping()) pass.Drop(index, DropoutPlace::kAttentionOutput, 0, out, out);
}

// dx of x1 from dh_cast.
template <typename T>
void AttentionBackward(Pass<T>& pass, int64_t index, bool needs_input) {
  Buffers& b = pass.buffers;
  LayerBuffers& layer = b.layers[index];
  const LayerOffsets& at = pass.offsets.layers[index];
  const ModelSizes& s = pass.sizes;
  const QkvParts parts(s);
  const at::Tensor& dy = pass.OutputGradient(index, DropoutPlace::kAttentionOutput, 0);
  pass.Multiply(b.dattention, dy, pass.Weights(at.o, s.hidden, s.attention));
  pass.AdapterInputGradient(at.o_adapter, dy, b.dattention);
  pass.WeightGradient(dy, layer.attention, at.o);
  pass.AdapterGradient(at.o_adapter, layer.attention, dy);
  AttendBackward(pass, index);
  Rotate(pass, -1.0f, b.dqkv);
  if (s.qk_norm) {
    pass.kernels.qk_norm_backward(pass.parallel, NormShape(pass, at), pass.Data(layer.projected),
                                  pass.Data(b.dqkv), pass.Gradient(at.q_norm),
                                  pass.Gradient(at.k_norm), Floats(b.partials));
  }
  const at::Tensor dq = b.dqkv.narrow(1, parts.q, s.attention);
  const at::Tensor dk = b.dqkv.narrow(1, parts.k, parts.kv_size);
  const at::Tensor dv = b.dqkv.narrow(1, parts.v, parts.kv_size);
  pass.WeightGradient(b.dqkv, layer.x1, at.qkv);
  pass.AdapterGradient(at.q_adapter, layer.x1, dq);
  pass.AdapterGradient(at.k_adapter, layer.x1, dk);
  pass.AdapterGradient(at.v_adapter, layer.x1, dv);
  if (!needs_input) return;
  pass.Multiply(b.dx, b.dqkv, pass.Weights(at.qkv, s.qkv, s.hidden));
  pass.AdapterInputGradient(at.q_adapter, dq, b.dx);
  pass.AdapterInputGradient(at.k_adapter, dk, b.dx);
  pass.AdapterInputGradient(at.v_adapter, dv, b.dx);
}

// delta of x2.
template <typename T>
void MlpForward(Pass<T>& pass, int64_t index) {
  if (pass.sizes.experts > 0) return ExpertsForward(pass, index);
  Buffers& b = pass.buffers;
  const MlpOffsets& at = pass.offsets.layers[index].mlp;
  const at::Tensor& gate_up = b.layers[index].gate_up;
  SwigluUp(pass, at, b.layers[index].x2, gate_up);
  pass.kernels.swiglu(pass.parallel, pass.rows.size, pass.sizes.inner, nullptr, pass.Data(gate_up),
                      pass.Data(b.inner));
  SwigluDown(pass, at, b.inner, b.delta);
  if (pass.dropping()) pass.Drop(index, DropoutPlace::kMlpOutput, 0, b.delta, b.delta);
}

// dx of x2 from dh_cast.
template <typename T>
void MlpBackward(Pass<T>& pass, int64_t index) {
  if (pass.sizes.experts > 0) return ExpertsBackward(pass, index);
  Buffers& b = pass.buffers;
  const MlpOffsets& at = pass.offsets.layers[index].mlp;
  const at::Tensor& gate_up = b.layers[index].gate_up;  // becomes its gradient
  const at::Tensor& dy = pass.OutputGradient(index, DropoutPlace::kMlpOutput, 0);
  SwigluDownBackward(pass, at, dy, b.inner);
  pass.kernels.swiglu_backward(pass.parallel, pass.rows.size, pass.sizes.inner, nullptr,
                               pass.Data(b.inner), pass.Data(gate_up), pass.Data(b.inner), nullptr);
  SwigluDownGradient(pass, at, dy, b.inner);
  SwigluUpBackward(pass, at, gate_up, /*accumulate=*/false, b.dx);
  SwigluUpGradient(pass, at, gate_up, b.layers[index].x2);
}

}  // namespace

template <typename T>
void LayerForward(Pass<T>& pass, int64_t index, const float* residual, const T* delta) {
  LayerBuffers& layer = pass.buffers.layers[index];
  const LayerOffsets& at = pass.offsets.layers[index];
  pass.AddNorm(residual, delta, at.norm1, layer.h1, layer.rstd1, layer.x1);
  AttentionForward(pass, index);
  pass.AddNorm(Floats(layer.h1), pass.Data(pass.buffers.delta), at.norm2, layer.h2, layer.rstd2,
               layer.x2);
  MlpForward(pass, index);
}

template <typename T>
void LayerBackward(Pass<T>& pass, int64_t index, bool needs_input) {
  LayerBuffers& layer = pass.buffers.layers[index];
  const LayerOffsets& at = pass.offsets.layers[index];
  MlpBackward(pass, index);
  pass.NormBackward(pass.buffers.dx, layer.h2, layer.rstd2, at.norm2, /*accumulate=*/true);
  AttentionBackward(pass, index, needs_input);
  if (!needs_input) return;
  pass.NormBackward(pass.buffers.dx, layer.h1, layer.rstd1, at.norm1, /*accumulate=*/true);
}

#define MINDFORGE_INSTANTIATE(T)                                         \
  template void LayerForward(Pass<T>&, int64_t, const float*, const T*); \
  template void LayerBackward(Pass<T>&, int64_t, bool);
MINDFORGE_FOR_COMPUTE_TYPES(MINDFORGE_INSTANTIATE)

}  // namespace mindforge
