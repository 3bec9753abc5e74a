// Attention of the composed backend: LibTorch's flash kernels where they apply (CUDA, 16-bit, no
// dropout), else by the book.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <tuple>

namespace mindforge {

// What one microbatch's queries may see, in the form the chosen path needs.
struct AttentionPlan {
  bool flash = false;
  at::Tensor visible;   // by the book: see VisiblePairs
  at::Tensor starts;    // flash over documents: int32 [documents + 1] offsets into all tokens
  int64_t longest = 0;  // flash: the longest row or document
};

// Chooses. Flash takes no padding mask and head dimensions that are multiples of 8 up to 256.
AttentionPlan PlanAttention(bool allow_flash, int64_t batch, int64_t length, int64_t head_dim,
                            c10::Device device, const at::Tensor& document_ids,
                            const at::Tensor& padding_mask);

// What a forward leaves for its backward.
struct AttentionResult {
  at::Tensor out;  // [B, T, heads, D]
  at::Tensor log_sum, rng_state, unused;
  at::Tensor keep;  // bool [B, heads, T, T]: probabilities that are not dropped; undefined: all
};

// q [B, T, heads, D], k and v [B, T, kv_heads, D]; `dropout` is the probability behind `keep`.
// REQUIRES: `keep` is undefined on a flash plan.
AttentionResult ForwardAttention(const AttentionPlan& plan, const at::Tensor& q,
                                 const at::Tensor& k, const at::Tensor& v, const at::Tensor& keep,
                                 double dropout);
std::tuple<at::Tensor, at::Tensor, at::Tensor> BackwardAttention(
    const AttentionPlan& plan, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    const AttentionResult& forward, double dropout, const at::Tensor& d_out);

}  // namespace mindforge
