#include "worker/model/attention.h"

#include <ATen/ops/empty.h>

#include "worker/model/plain_attention.h"

namespace mindforge {
namespace {

// Heads of a projection as [B, T, heads, D], from element `begin` of each row.
template <typename T>
at::Tensor Heads(const Pass<T>& pass, const at::Tensor& x, int64_t begin, int64_t heads) {
  const int64_t dim = pass.sizes.head_dim;
  return x.view({pass.rows.batch, -1, x.size(1)})
      .narrow(2, begin, heads * dim)
      .unflatten(2, {heads, dim});
}

// `dropout` must outlive the shape.
template <typename T>
AttentionShape<T> FusedShape(const Pass<T>& pass, const DropoutSite* dropout) {
  const TokenRows& rows = pass.rows;
  AttentionShape<T> shape;
  shape.batch = rows.batch;
  shape.length = rows.longest;
  shape.starts = pass.arrays.starts;
  shape.tokens = rows.tokens;
  shape.heads = pass.sizes.heads;
  shape.kv_heads = pass.sizes.kv_heads;
  shape.head_dim = pass.sizes.head_dim;
  shape.stride = pass.sizes.qkv;
  shape.out_stride = pass.sizes.attention;
  shape.first_key = pass.arrays.first_key;
  shape.key_mask = pass.arrays.key_mask;
  shape.dropout = dropout;
  return shape;
}

// What plain attention multiplies its probabilities with; undefined without dropout.
template <typename T>
at::Tensor PlainDropout(const Pass<T>& pass, int64_t layer) {
  if (!pass.dropping()) return {};
  const int64_t length = pass.rows.longest;
  at::Tensor out = at::empty({pass.rows.batch, pass.sizes.heads, length, length},
                             at::TensorOptions().device(pass.device).dtype(at::kFloat));
  pass.kernels.dropout_scores(pass.parallel, pass.rows.batch, pass.sizes.heads, length,
                              pass.Site(layer, DropoutPlace::kProbabilities), Floats(out));
  return out;
}

}  // namespace

template <typename T>
void Attend(Pass<T>& pass, int64_t layer) {
  LayerBuffers& b = pass.buffers.layers[layer];
  const ModelSizes& s = pass.sizes;
  const QkvParts parts(s);
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
void AttendBackward(Pass<T>& pass, int64_t layer) {
  LayerBuffers& b = pass.buffers.layers[layer];
  const ModelSizes& s = pass.sizes;
  const QkvParts parts(s);
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

#define MINDFORGE_INSTANTIATE(T)                      \
  template void Attend(Pass<T>& pass, int64_t layer); \
  template void AttendBackward(Pass<T>& pass, int64_t layer);
MINDFORGE_FOR_COMPUTE_TYPES(MINDFORGE_INSTANTIATE)

}  // namespace mindforge
