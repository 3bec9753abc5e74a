#include "worker/model/cpu_attention.h"

#include <ATen/ops/empty.h>

#include "worker/model/plain_attention.h"

namespace mindforge {
namespace {

// The parts of a fused projection, by element.
struct Parts {
  int64_t q, k, v;  // where each begins
  int64_t kv_size;

  explicit Parts(const ModelSizes& s)
      : q(0),
        k(s.heads * s.head_dim),
        v((s.heads + s.kv_heads) * s.head_dim),
        kv_size(s.kv_heads * s.head_dim) {}
};

// Heads of a projection as [B, T, heads, D], from element `begin` of each row.
template <typename T>
at::Tensor Heads(const CpuPass<T>& pass, const at::Tensor& x, int64_t begin, int64_t heads) {
  const int64_t dim = pass.sizes.head_dim;
  return x.view({pass.rows.batch, -1, x.size(1)})
      .narrow(2, begin, heads * dim)
      .unflatten(2, {heads, dim});
}

template <typename T>
void Rotate(const CpuPass<T>& pass, float sign, const at::Tensor& qkv) {
  const ModelSizes& s = pass.sizes;
  pass.kernels.rope(pass.parallel, pass.rows.size, pass.rows.positions.data(), s.heads + s.kv_heads,
                    s.head_dim, s.qkv, pass.rope.cos.data(), pass.rope.sin.data(), sign,
                    CpuPass<T>::Data(qkv));
}

template <typename T>
QkNormShape NormShape(const CpuPass<T>& pass, const LayerOffsets& at) {
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

// `dropout` must outlive the shape.
template <typename T>
AttentionShape<T> FusedShape(const CpuPass<T>& pass, const DropoutSite* dropout) {
  const TokenRows& rows = pass.rows;
  AttentionShape<T> shape;
  shape.batch = rows.batch;
  shape.length = rows.longest;
  shape.starts = rows.starts.data();
  shape.heads = pass.sizes.heads;
  shape.kv_heads = pass.sizes.kv_heads;
  shape.head_dim = pass.sizes.head_dim;
  shape.stride = pass.sizes.qkv;
  shape.out_stride = pass.sizes.attention;
  shape.first_key = rows.first_key.empty() ? nullptr : rows.first_key.data();
  shape.key_mask = pass.key_mask;
  shape.dropout = dropout;
  return shape;
}

// What plain attention multiplies its probabilities with; undefined without dropout.
template <typename T>
at::Tensor PlainDropout(const CpuPass<T>& pass, int64_t layer) {
  if (!pass.dropping()) return {};
  const int64_t length = pass.rows.longest;
  at::Tensor out = at::empty({pass.rows.batch, pass.sizes.heads, length, length}, at::kFloat);
  pass.kernels.dropout_scores(pass.parallel, pass.rows.batch, pass.sizes.heads, length,
                              pass.Site(layer, DropoutPlace::kProbabilities), Floats(out));
  return out;
}

template <typename T>
void Attend(CpuPass<T>& pass, int64_t layer) {
  LayerBuffers& b = pass.buffers.layers[layer];
  const ModelSizes& s = pass.sizes;
  const Parts parts(s);
  if (pass.plain_attention()) {
    Heads(pass, b.attention, 0, s.heads)
        .copy_(PlainAttention(
            Heads(pass, b.qkv, parts.q, s.heads), Heads(pass, b.qkv, parts.k, s.kv_heads),
            Heads(pass, b.qkv, parts.v, s.kv_heads), pass.visible, PlainDropout(pass, layer)));
    return;
  }
  const DropoutSite site = pass.Site(layer, DropoutPlace::kProbabilities);
  const AttentionShape<T> shape = FusedShape(pass, pass.dropping() ? &site : nullptr);
  const T* qkv = pass.Data(b.qkv);
  pass.kernels.attention(pass.parallel, shape, qkv + parts.q, qkv + parts.k, qkv + parts.v,
                         pass.Data(b.attention), Floats(b.log2_sum),
                         pass.buffers.Workspace(pass.kernels.attention_workspace(shape)));
  pass.ClearFilling(b.attention);
}

template <typename T>
void AttendBackward(CpuPass<T>& pass, int64_t layer) {
  LayerBuffers& b = pass.buffers.layers[layer];
  const ModelSizes& s = pass.sizes;
  const Parts parts(s);
  const at::Tensor& dqkv = pass.buffers.dqkv;
  if (pass.plain_attention()) {
    const auto [dq, dk, dv] = PlainAttentionBackward(
        Heads(pass, b.qkv, parts.q, s.heads), Heads(pass, b.qkv, parts.k, s.kv_heads),
        Heads(pass, b.qkv, parts.v, s.kv_heads), pass.visible,
        Heads(pass, pass.buffers.dattention, 0, s.heads), PlainDropout(pass, layer));
    Heads(pass, dqkv, parts.q, s.heads).copy_(dq);
    Heads(pass, dqkv, parts.k, s.kv_heads).copy_(dk);
    Heads(pass, dqkv, parts.v, s.kv_heads).copy_(dv);
    return;
  }
  const DropoutSite site = pass.Site(layer, DropoutPlace::kProbabilities);
  const AttentionShape<T> shape = FusedShape(pass, pass.dropping() ? &site : nullptr);
  const T* qkv = pass.Data(b.qkv);
  T* d = pass.Data(dqkv);
  pass.kernels.attention_backward(
      pass.parallel, shape, qkv + parts.q, qkv + parts.k, qkv + parts.v, pass.Data(b.attention),
      Floats(b.log2_sum), pass.Data(pass.buffers.dattention), d + parts.q, d + parts.k, d + parts.v,
      pass.buffers.Workspace(pass.kernels.attention_backward_workspace(shape)));
  pass.ClearFilling(dqkv);
}

}  // namespace

template <typename T>
void AttentionForward(CpuPass<T>& pass, int64_t layer) {
  LayerBuffers& b = pass.buffers.layers[layer];
  const LayerOffsets& at = pass.offsets.layers[layer];
  const ModelSizes& s = pass.sizes;
  const Parts parts(s);
  at::Tensor& projected = s.qk_norm ? b.projected : b.qkv;
  pass.Multiply(projected, b.x1, pass.Weights(at.qkv, s.qkv, s.hidden).t());
  pass.AddAdapter(at.q_adapter, b.x1, projected.narrow(1, parts.q, s.attention));
  pass.AddAdapter(at.k_adapter, b.x1, projected.narrow(1, parts.k, parts.kv_size));
  pass.AddAdapter(at.v_adapter, b.x1, projected.narrow(1, parts.v, parts.kv_size));
  if (s.qk_norm) {
    pass.kernels.qk_norm(pass.parallel, NormShape(pass, at), pass.Data(projected),
                         pass.Data(b.qkv));
  }
  Rotate(pass, 1.0f, b.qkv);
  Attend(pass, layer);
  at::Tensor& out = pass.buffers.delta;
  pass.Multiply(out, b.attention, pass.Weights(at.o, s.hidden, s.attention).t());
  pass.AddAdapter(at.o_adapter, b.attention, out);
  if (pass.dropping()) pass.Drop(layer, DropoutPlace::kAttentionOutput, 0, out, out);
}

template <typename T>
void AttentionBackward(CpuPass<T>& pass, int64_t layer, bool needs_input) {
  CpuBuffers& buffers = pass.buffers;
  LayerBuffers& b = buffers.layers[layer];
  const LayerOffsets& at = pass.offsets.layers[layer];
  const ModelSizes& s = pass.sizes;
  const Parts parts(s);
  const at::Tensor& dy = pass.OutputGradient(layer, DropoutPlace::kAttentionOutput, 0);
  pass.Multiply(buffers.dattention, dy, pass.Weights(at.o, s.hidden, s.attention));
  pass.AdapterInputGradient(at.o_adapter, dy, buffers.dattention);
  pass.WeightGradient(dy, b.attention, at.o);
  pass.AdapterGradient(at.o_adapter, b.attention, dy);
  AttendBackward(pass, layer);
  Rotate(pass, -1.0f, buffers.dqkv);
  if (s.qk_norm) {
    pass.kernels.qk_norm_backward(pass.parallel, NormShape(pass, at), pass.Data(b.projected),
                                  pass.Data(buffers.dqkv), pass.Gradient(at.q_norm),
                                  pass.Gradient(at.k_norm), Floats(buffers.partials));
  }
  const at::Tensor dq = buffers.dqkv.narrow(1, parts.q, s.attention);
  const at::Tensor dk = buffers.dqkv.narrow(1, parts.k, parts.kv_size);
  const at::Tensor dv = buffers.dqkv.narrow(1, parts.v, parts.kv_size);
  pass.WeightGradient(buffers.dqkv, b.x1, at.qkv);
  pass.AdapterGradient(at.q_adapter, b.x1, dq);
  pass.AdapterGradient(at.k_adapter, b.x1, dk);
  pass.AdapterGradient(at.v_adapter, b.x1, dv);
  if (!needs_input) return;
  pass.Multiply(buffers.dx, buffers.dqkv, pass.Weights(at.qkv, s.qkv, s.hidden));
  pass.AdapterInputGradient(at.q_adapter, dq, buffers.dx);
  pass.AdapterInputGradient(at.k_adapter, dk, buffers.dx);
  pass.AdapterInputGradient(at.v_adapter, dv, buffers.dx);
}

template void AttentionForward(CpuPass<float>& pass, int64_t layer);
template void AttentionForward(CpuPass<Bf16>& pass, int64_t layer);
template void AttentionBackward(CpuPass<float>& pass, int64_t layer, bool needs_input);
template void AttentionBackward(CpuPass<Bf16>& pass, int64_t layer, bool needs_input);

}  // namespace mindforge
