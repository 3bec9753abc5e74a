#include "worker/model/plain_attention.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <cmath>
#include <limits>

namespace mindforge {
namespace {

// [B, T, kv_heads, D] -> [B, heads, T, D], each kv head repeated for its query heads.
at::Tensor Expand(const at::Tensor& x, int64_t heads) {
  const int64_t kv_heads = x.size(2);
  return x.transpose(1, 2)
      .unsqueeze(2)
      .expand({x.size(0), kv_heads, heads / kv_heads, x.size(1), x.size(3)})
      .reshape({x.size(0), heads, x.size(1), x.size(3)});
}

// The sum over the query heads of each kv head, back as [B, T, kv_heads, D].
at::Tensor SumGroups(const at::Tensor& x, int64_t kv_heads) {  // [B, heads, T, D]
  return x.view({x.size(0), kv_heads, x.size(1) / kv_heads, x.size(2), x.size(3)})
      .sum(2)
      .transpose(1, 2);
}

double Scale(const at::Tensor& q) { return 1.0 / std::sqrt(static_cast<double>(q.size(3))); }

at::Tensor Probabilities(const at::Tensor& q, const at::Tensor& k, const at::Tensor& visible) {
  const at::Tensor scores =  // [B, heads, T, T]
      at::matmul(q.transpose(1, 2), k.transpose(2, 3)).to(at::kFloat) * Scale(q);
  const at::Tensor hidden =
      scores.masked_fill(visible.logical_not(), -std::numeric_limits<float>::infinity());
  // A row without visible keys is 0/0.
  return at::nan_to_num(at::softmax(hidden, -1), 0.0);
}

}  // namespace

at::Tensor VisiblePairs(int64_t length, c10::Device device, const at::Tensor& document_ids,
                        const at::Tensor& padding_mask) {
  const auto options = at::TensorOptions().device(device).dtype(at::kBool);
  at::Tensor visible = at::ones({1, 1, length, length}, options).tril();
  if (document_ids.defined()) {
    const at::Tensor ids = document_ids.to(device);
    visible = visible.logical_and((ids.unsqueeze(2) == ids.unsqueeze(1)).unsqueeze(1));
  }
  if (padding_mask.defined()) {
    visible = visible.logical_and(padding_mask.to(device).to(at::kBool).unsqueeze(1).unsqueeze(1));
  }
  return visible;
}

at::Tensor PlainAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const at::Tensor& visible, const at::Tensor& dropout) {
  const int64_t heads = q.size(2);
  at::Tensor p = Probabilities(q, Expand(k, heads), visible);
  if (dropout.defined()) p = p * dropout;
  return at::matmul(p.to(v.scalar_type()), Expand(v, heads)).transpose(1, 2);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> PlainAttentionBackward(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& visible,
    const at::Tensor& d_out, const at::Tensor& dropout) {
  const int64_t heads = q.size(2);
  const int64_t kv_heads = k.size(2);
  const at::Tensor keys = Expand(k, heads);
  const at::Tensor d = d_out.transpose(1, 2);
  const at::Tensor p = Probabilities(q, keys, visible);
  at::Tensor dp = at::matmul(d, Expand(v, heads).transpose(2, 3)).to(at::kFloat);
  if (dropout.defined()) dp = dp * dropout;
  const at::Tensor ds =
      ((dp - (dp * p).sum(-1, /*keepdim=*/true)) * p * Scale(q)).to(q.scalar_type());
  const at::Tensor kept = dropout.defined() ? p * dropout : p;
  const at::Tensor dv = at::matmul(kept.to(v.scalar_type()).transpose(2, 3), d);
  const at::Tensor dk = at::matmul(ds.transpose(2, 3), q.transpose(1, 2));
  return {at::matmul(ds, keys).transpose(1, 2), SumGroups(dk, kv_heads), SumGroups(dv, kv_heads)};
}

}  // namespace mindforge
