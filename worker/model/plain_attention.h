// Attention by the book on any device: scores, float32 softmax, product; every score is held. The
// path that the fused kernels are checked against.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace mindforge {

// What a query may see: bool [B or 1, 1, T, T], from causality, documents (int32 [B, T] or
// undefined) and a padding mask ([B, T], zero blocks a key, or undefined).
at::Tensor VisiblePairs(int64_t length, c10::Device device, const at::Tensor& document_ids,
                        const at::Tensor& padding_mask);

// q [B, T, heads, D], k and v [B, T, kv_heads, D], any strides; returns [B, T, heads, D]. A query
// that sees nothing gives 0. `dropout`: float32 [B, heads, T, T], what each probability is
// multiplied with after the softmax; undefined: nothing.
at::Tensor PlainAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const at::Tensor& visible, const at::Tensor& dropout = {});

// Gradients of q, k and v, shaped like them.
std::tuple<at::Tensor, at::Tensor, at::Tensor> PlainAttentionBackward(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& visible,
    const at::Tensor& d_out, const at::Tensor& dropout = {});

}  // namespace mindforge
