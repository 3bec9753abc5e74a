#include "worker/model/aten_attention.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "worker/model/microbatch.h"
#include "worker/model/plain_attention.h"

namespace mindforge {
namespace {

std::optional<double> Scale(const at::Tensor& q) {
  return 1.0 / std::sqrt(static_cast<double>(q.size(-1)));
}

// Documents' rows are laid end to end: [B, T, heads, D] -> [B · T, heads, D].
at::Tensor Flat(const AttentionPlan& plan, const at::Tensor& x) {
  return plan.starts.defined() ? x.flatten(0, 1) : x;
}

// What plain attention multiplies its probabilities with.
at::Tensor Factors(const at::Tensor& keep, double dropout) {
  return keep.defined() ? keep.to(at::kFloat) * (1.0 / (1.0 - dropout)) : at::Tensor();
}

}  // namespace

AttentionPlan PlanAttention(bool allow_flash, int64_t batch, int64_t length, int64_t head_dim,
                            c10::Device device, const at::Tensor& document_ids,
                            const at::Tensor& padding_mask) {
  AttentionPlan plan;
  plan.flash = allow_flash && device.is_cuda() && !padding_mask.defined() && head_dim % 8 == 0 &&
               head_dim <= 256;
  if (!plan.flash) {
    plan.visible = VisiblePairs(length, device, document_ids, padding_mask);
    return plan;
  }
  plan.longest = length;
  if (!document_ids.defined()) return plan;
  const std::vector<int32_t> first = FirstKeys(document_ids);
  std::vector<int32_t> starts;
  for (size_t i = 0; i < first.size(); ++i) {
    if (first[i] == static_cast<int32_t>(i % length)) starts.push_back(static_cast<int32_t>(i));
  }
  starts.push_back(static_cast<int32_t>(batch * length));
  plan.longest = 0;
  for (size_t i = 1; i < starts.size(); ++i) {
    plan.longest = std::max<int64_t>(plan.longest, starts[i] - starts[i - 1]);
  }
  plan.starts = at::tensor(starts, at::kInt).to(device);
  return plan;
}

AttentionResult ForwardAttention(const AttentionPlan& plan, const at::Tensor& q,
                                 const at::Tensor& k, const at::Tensor& v, const at::Tensor& keep,
                                 double dropout) {
  AttentionResult result;
  result.keep = keep;
  if (!plan.flash) {
    result.out = PlainAttention(q, k, v, plan.visible, Factors(keep, dropout));
    return result;
  }
  std::optional<at::Tensor> starts;
  if (plan.starts.defined()) starts = plan.starts;
  auto [out, log_sum, rng_state, unused, debug] = at::_flash_attention_forward(
      Flat(plan, q), Flat(plan, k), Flat(plan, v), starts, starts, plan.longest, plan.longest,
      /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false, Scale(q));
  result.out = out.view(q.sizes());
  result.log_sum = log_sum;
  result.rng_state = rng_state;
  result.unused = unused;
  return result;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> BackwardAttention(
    const AttentionPlan& plan, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    const AttentionResult& forward, double dropout, const at::Tensor& d_out) {
  if (!plan.flash) {
    return PlainAttentionBackward(q, k, v, plan.visible, d_out, Factors(forward.keep, dropout));
  }
  auto [dq, dk, dv] = at::_flash_attention_backward(
      Flat(plan, d_out), Flat(plan, q), Flat(plan, k), Flat(plan, v), Flat(plan, forward.out),
      forward.log_sum, plan.starts, plan.starts, plan.longest, plan.longest, /*dropout_p=*/0.0,
      /*is_causal=*/true, forward.rng_state, forward.unused, Scale(q));
  return {dq.view(q.sizes()), dk.view(k.sizes()), dv.view(v.sizes())};
}

}  // namespace mindforge
