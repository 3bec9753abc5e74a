#include "worker/model/aten_minimind.h"

#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Reduction.h>
#include <ATen/core/grad_mode.h>

#include <cstdlib>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/kernels/rope.h"
#include "worker/model/aten_attention.h"
#include "worker/model/layout.h"
#include "worker/model/microbatch.h"

namespace mindforge {
namespace {

constexpr int64_t kIgnored = -100;  // a target that does not count

// What a layer's backward needs of its forward. T: the compute dtype.
struct LayerState {
  at::Tensor h1, rstd1, x1;  // f32 [n, hidden], f32 [n, 1], T [n, hidden]
  at::Tensor q, k, v;        // T [B, T, heads or kv_heads, D], after RoPE
  AttentionResult attention;
  at::Tensor h2, rstd2, x2;
  at::Tensor gate_up;  // T [n, 2 · inner]
};

struct ForwardState {
  int64_t batch, length;
  AttentionPlan plan;
  at::Tensor cos, sin;  // f32 [T, 1, D/2]
  std::vector<LayerState> layers;
  at::Tensor h, rstd, x;
};

class AtenMinimind : public Minimind {
 public:
  AtenMinimind(const ModelConfig& config, c10::Device device, const MinimindOptions& options)
      : Minimind(config, device, options),
        sizes_(config),
        offsets_(sizes_, config.tie_word_embeddings),
        type_(ToScalarType(options.compute)) {}

  absl::StatusOr<at::Tensor> ForwardBackward(const Microbatch& microbatch,
                                             const at::Tensor& gradient,
                                             const PassOptions& pass) override;
  absl::StatusOr<LossSum> EvaluateLoss(const Microbatch& microbatch) override;
  absl::StatusOr<at::Tensor> Logits(const at::Tensor& input_ids, const at::Tensor& padding_mask,
                                    int64_t logits_to_keep) override;

 private:
  ForwardState Forward(const at::Tensor& ids, const at::Tensor& document_ids,
                       const at::Tensor& padding_mask);
  void ForwardLayer(const ForwardState& state, const LayerOffsets& at, LayerState& layer,
                    at::Tensor& residual);
  // dh, the residual stream's gradient, goes from the layer's output to its input.
  void BackwardLayer(const ForwardState& state, const LayerOffsets& at, const LayerState& layer,
                     const at::Tensor& gradient, at::Tensor& dh);
  at::Tensor BackwardAttentionBlock(const ForwardState& state, const LayerState& layer,
                                    const at::Tensor& d_out);
  std::pair<at::Tensor, at::Tensor> Norm(const at::Tensor& h, int64_t offset) const;
  at::Tensor NormBackward(const at::Tensor& dy, const at::Tensor& h, const at::Tensor& rstd,
                          int64_t offset, const at::Tensor& gradient) const;
  void WeightGradient(const at::Tensor& left, const at::Tensor& right, const at::Tensor& gradient,
                      int64_t offset) const;
  at::Tensor Weight(int64_t offset) const {
    return flat_parameters_.narrow(0, offset, sizes_.hidden);
  }
  void EnsureRope(int64_t length);

  const ModelSizes sizes_;
  const ModelOffsets offsets_;
  const at::ScalarType type_;
  at::Tensor cos_, sin_;  // f32 [positions, 1, D/2]
};

// Rotates x [B, T, heads, D]; sign -1 undoes it.
at::Tensor Rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, double sign) {
  const auto halves = x.to(at::kFloat).chunk(2, -1);
  const at::Tensor sine = sin * sign;
  return at::cat({halves[0] * cos - halves[1] * sine, halves[1] * cos + halves[0] * sine}, -1)
      .to(x.scalar_type());
}

void AtenMinimind::EnsureRope(int64_t length) {
  if (cos_.defined() && cos_.size(0) >= length) return;
  RopeTables tables = MakeRopeTables(config_, length);
  const auto upload = [&](std::vector<float>& table) {
    return at::from_blob(table.data(), {length, 1, tables.half}, at::kFloat)
        .to(device_, at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  };
  cos_ = upload(tables.cos);
  sin_ = upload(tables.sin);
}

std::pair<at::Tensor, at::Tensor> AtenMinimind::Norm(const at::Tensor& h, int64_t offset) const {
  at::Tensor rstd = h.square().mean(-1, /*keepdim=*/true).add_(config_.rms_norm_eps).rsqrt_();
  at::Tensor x = (h * rstd).mul_(Weight(offset)).to(type_);
  return {std::move(rstd), std::move(x)};
}

at::Tensor AtenMinimind::NormBackward(const at::Tensor& dy, const at::Tensor& h,
                                      const at::Tensor& rstd, int64_t offset,
                                      const at::Tensor& gradient) const {
  const at::Tensor normal = h * rstd;
  const at::Tensor d = dy.to(at::kFloat);
  at::Tensor dw = gradient.narrow(0, offset, sizes_.hidden);
  at::sum_out(dw, d * normal, at::IntArrayRef{0});
  const at::Tensor through = d * Weight(offset);
  return (through - normal * (through * normal).mean(-1, /*keepdim=*/true)) * rstd;
}

void AtenMinimind::WeightGradient(const at::Tensor& left, const at::Tensor& right,
                                  const at::Tensor& gradient, int64_t offset) const {
  at::Tensor target =
      gradient.narrow(0, offset, left.size(1) * right.size(1)).view({left.size(1), right.size(1)});
  if (type_ == at::kFloat) {
    at::mm_out(target, left.t(), right);
  } else {
    target.copy_(at::mm(left.t(), right));
  }
}

void AtenMinimind::ForwardLayer(const ForwardState& state, const LayerOffsets& at,
                                LayerState& layer, at::Tensor& residual) {
  const int64_t c = sizes_.hidden;
  layer.h1 = residual;
  std::tie(layer.rstd1, layer.x1) = Norm(layer.h1, at.norm1);
  const at::Tensor qkv = at::mm(layer.x1, ProductWeights(at.qkv, sizes_.qkv, c).t())
                             .view({state.batch, state.length, -1, sizes_.head_dim});
  layer.q = Rotate(qkv.narrow(2, 0, sizes_.heads), state.cos, state.sin, 1);
  layer.k = Rotate(qkv.narrow(2, sizes_.heads, sizes_.kv_heads), state.cos, state.sin, 1);
  layer.v = qkv.narrow(2, sizes_.heads + sizes_.kv_heads, sizes_.kv_heads);
  layer.attention = ForwardAttention(state.plan, layer.q, layer.k, layer.v);
  layer.attention.out = layer.attention.out.contiguous();
  const at::Tensor attended = layer.attention.out.view({-1, sizes_.attention});
  layer.h2 = layer.h1 + at::mm(attended, ProductWeights(at.o, c, sizes_.attention).t());
  std::tie(layer.rstd2, layer.x2) = Norm(layer.h2, at.norm2);
  layer.gate_up = at::mm(layer.x2, ProductWeights(at.mlp.gate_up, 2 * sizes_.inner, c).t());
  const auto halves = layer.gate_up.chunk(2, -1);
  residual = layer.h2 + at::mm(at::silu(halves[0]) * halves[1],
                               ProductWeights(at.mlp.down, c, sizes_.inner).t());
}

ForwardState AtenMinimind::Forward(const at::Tensor& ids, const at::Tensor& document_ids,
                                   const at::Tensor& padding_mask) {
  ForwardState state;
  state.batch = ids.size(0);
  state.length = ids.size(1);
  const bool allow_flash = options_.attention == AttentionPath::kFused && type_ == at::kBFloat16;
  state.plan = PlanAttention(allow_flash, state.batch, state.length, sizes_.head_dim, device_,
                             document_ids, padding_mask);
  EnsureRope(state.length);
  state.cos = cos_.narrow(0, 0, state.length);
  state.sin = sin_.narrow(0, 0, state.length);
  state.layers.resize(sizes_.layers);
  at::Tensor residual = at::embedding(flat_parameters_.narrow(0, 0, sizes_.vocab * sizes_.hidden)
                                          .view({sizes_.vocab, sizes_.hidden}),
                                      ids.flatten());
  for (int64_t i = 0; i < sizes_.layers; ++i) {
    ForwardLayer(state, offsets_.layers[i], state.layers[i], residual);
  }
  state.h = residual;
  std::tie(state.rstd, state.x) = Norm(state.h, offsets_.norm);
  return state;
}

at::Tensor AtenMinimind::BackwardAttentionBlock(const ForwardState& state, const LayerState& layer,
                                                const at::Tensor& d_out) {
  auto [dq, dk, dv] = BackwardAttention(state.plan, layer.q, layer.k, layer.v, layer.attention,
                                        d_out.view(layer.q.sizes()));
  return at::cat({Rotate(dq, state.cos, state.sin, -1), Rotate(dk, state.cos, state.sin, -1), dv},
                 2)
      .view({-1, sizes_.qkv});
}

void AtenMinimind::BackwardLayer(const ForwardState& state, const LayerOffsets& at,
                                 const LayerState& layer, const at::Tensor& gradient,
                                 at::Tensor& dh) {
  const int64_t c = sizes_.hidden;
  const auto halves = layer.gate_up.chunk(2, -1);
  at::Tensor cast = dh.to(type_);
  const at::Tensor activated = at::silu(halves[0]);
  WeightGradient(cast, activated * halves[1], gradient, at.mlp.down);
  const at::Tensor dinner = at::mm(cast, ProductWeights(at.mlp.down, c, sizes_.inner));
  const at::Tensor dgate_up =
      at::cat({at::silu_backward(dinner * halves[1], halves[0]), dinner * activated}, -1);
  WeightGradient(dgate_up, layer.x2, gradient, at.mlp.gate_up);
  dh = dh + NormBackward(at::mm(dgate_up, ProductWeights(at.mlp.gate_up, 2 * sizes_.inner, c)),
                         layer.h2, layer.rstd2, at.norm2, gradient);
  cast = dh.to(type_);
  WeightGradient(cast, layer.attention.out.view({-1, sizes_.attention}), gradient, at.o);
  const at::Tensor dqkv =
      BackwardAttentionBlock(state, layer, at::mm(cast, ProductWeights(at.o, c, sizes_.attention)));
  WeightGradient(dqkv, layer.x1, gradient, at.qkv);
  dh = dh + NormBackward(at::mm(dqkv, ProductWeights(at.qkv, sizes_.qkv, c)), layer.h1, layer.rstd1,
                         at.norm1, gradient);
}

absl::StatusOr<at::Tensor> AtenMinimind::ForwardBackward(const Microbatch& microbatch,
                                                         const at::Tensor& gradient,
                                                         const PassOptions& pass) {
  absl::Status checked = CheckMicrobatch(*this, microbatch);
  if (checked.ok()) checked = CheckGradient(*this, gradient);
  if (!checked.ok()) return checked;
  const at::NoGradGuard no_grad;
  const at::Tensor ids = microbatch.input_ids.to(device_, /*dtype=*/at::kLong);
  const at::Tensor mask = microbatch.mask.to(device_, at::kBool).flatten();
  const at::Tensor targets =
      microbatch.targets.to(device_, at::kLong).flatten().masked_fill(mask.logical_not(), kIgnored);
  const ForwardState state = Forward(ids, microbatch.document_ids, {});

  // A microbatch without a counted target divides zeros by one; nothing waits for the device.
  const at::Tensor weight = mask.sum().clamp_min(1).to(at::kFloat).reciprocal();
  const at::Tensor head = ProductWeights(offsets_.head, sizes_.vocab, sizes_.hidden);
  const at::Tensor log_p =
      at::_log_softmax(at::mm(state.x, head.t()).to(at::kFloat), 1, /*half_to_float=*/false);
  const auto [sum, total] = at::nll_loss_forward(log_p, targets, {}, at::Reduction::Sum, kIgnored);
  const at::Tensor d_log_p = at::nll_loss_backward(weight * pass.loss_scale, log_p, targets, {},
                                                   at::Reduction::Sum, kIgnored, total);
  const at::Tensor dlogits =
      at::_log_softmax_backward_data(d_log_p, log_p, 1, at::kFloat).to(type_);
  WeightGradient(dlogits, state.x, gradient, offsets_.head);
  at::Tensor dh = NormBackward(at::mm(dlogits, head), state.h, state.rstd, offsets_.norm, gradient);
  for (int64_t i = sizes_.layers - 1; i >= 0; --i) {
    BackwardLayer(state, offsets_.layers[i], state.layers[i], gradient, dh);
  }
  at::Tensor embedding =
      gradient.narrow(0, 0, sizes_.vocab * sizes_.hidden).view({sizes_.vocab, sizes_.hidden});
  if (!config_.tie_word_embeddings) embedding.zero_();
  embedding.add_(at::embedding_dense_backward(dh, ids.flatten(), sizes_.vocab, /*padding_idx=*/-1,
                                              /*scale_grad_by_freq=*/false));
  return sum * weight;
}

absl::StatusOr<LossSum> AtenMinimind::EvaluateLoss(const Microbatch& microbatch) {
  const absl::Status checked = CheckMicrobatch(*this, microbatch);
  if (!checked.ok()) return checked;
  const at::NoGradGuard no_grad;
  const at::Tensor mask = microbatch.mask.to(device_, at::kBool).flatten();
  const at::Tensor targets = microbatch.targets.to(device_, at::kLong).view({-1, 1});
  const ForwardState state = Forward(microbatch.input_ids.to(device_), microbatch.document_ids, {});
  const at::Tensor head = ProductWeights(offsets_.head, sizes_.vocab, sizes_.hidden);
  const at::Tensor log_p = at::log_softmax(at::mm(state.x, head.t()).to(at::kFloat), 1);
  const at::Tensor losses =
      log_p.gather(1, targets).flatten().neg().masked_fill(mask.logical_not(), 0).cpu();
  LossSum out;
  out.targets = mask.sum().item<int64_t>();
  const auto* loss = losses.const_data_ptr<float>();
  for (int64_t i = 0; i < losses.numel(); ++i) out.sum += static_cast<double>(loss[i]);
  return out;
}

absl::StatusOr<at::Tensor> AtenMinimind::Logits(const at::Tensor& input_ids,
                                                const at::Tensor& padding_mask,
                                                int64_t logits_to_keep) {
  const absl::Status checked =
      CheckLogitsArguments(config_, input_ids, padding_mask, logits_to_keep);
  if (!checked.ok()) return checked;
  const at::NoGradGuard no_grad;
  const ForwardState state = Forward(input_ids.to(device_), {}, padding_mask);
  const int64_t keep = logits_to_keep == 0 ? state.length : logits_to_keep;
  const at::Tensor x = state.x.view({state.batch, state.length, sizes_.hidden})
                           .narrow(1, state.length - keep, keep)
                           .reshape({-1, sizes_.hidden});
  const at::Tensor head = ProductWeights(offsets_.head, sizes_.vocab, sizes_.hidden);
  return at::mm(x, head.t()).to(at::kFloat).view({state.batch, keep, sizes_.vocab});
}

// The same bits on every run: cuBLAS needs a fixed workspace for that, named before its first use.
void MakeCudaDeterministic() {
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  at::globalContext().setDeterministicFillUninitializedMemory(false);
}

}  // namespace

absl::Status CheckAtenSupport(const ModelConfig& config, const MinimindOptions& options) {
  const auto unimplemented = [](const char* what) {
    return absl::UnimplementedError(
        absl::StrCat("training with ", what, " is not supported on this device"));
  };
  if (config.use_moe) return unimplemented("use_moe: true");
  if (config.qk_norm) return unimplemented("qk_norm: true");
  if (config.dropout > 0) return unimplemented("dropout > 0");
  if (options.compute == ComputeDtype::kFloat16) return unimplemented("float16");
  if (options.lora_rank > 0) return unimplemented("LoRA");
  return absl::OkStatus();
}

std::unique_ptr<Minimind> MakeAtenMinimind(const ModelConfig& config, c10::Device device,
                                           const MinimindOptions& options) {
  if (device.is_cuda()) MakeCudaDeterministic();
  return std::make_unique<AtenMinimind>(config, device, options);
}

}  // namespace mindforge
