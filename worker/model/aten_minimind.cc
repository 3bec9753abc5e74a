#include "worker/model/aten_minimind.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Reduction.h>
#include <ATen/core/grad_mode.h>

#include <utility>
#include <vector>

#include "worker/kernels/rope.h"
#include "worker/model/aten_attention.h"
#include "worker/model/aten_mlp.h"
#include "worker/model/aten_moe.h"
#include "worker/model/aten_ops.h"
#include "worker/model/device.h"
#include "worker/model/layout.h"
#include "worker/model/microbatch.h"

namespace mindforge {
namespace {

constexpr int64_t kIgnored = -100;  // a target that does not count

// What a layer's backward needs of its forward. T: the compute dtype.
struct LayerState {
  at::Tensor h1, rstd1, x1;   // f32 [n, hidden], f32 [n, 1], T [n, hidden]
  at::Tensor raw_q, raw_k;    // with qk_norm: T, before it
  at::Tensor q_rstd, k_rstd;  // f32 [B, T, heads or kv_heads, 1]
  at::Tensor q, k, v;         // T [B, T, heads or kv_heads, D], after RoPE
  AttentionResult attention;
  at::Tensor keep;  // bool [n, hidden]: dropout after the output projection
  at::Tensor h2, rstd2, x2;
  MlpState mlp;
  MoeState moe;
};

struct ForwardState {
  int64_t batch, length;
  AttentionPlan plan;
  at::Tensor cos, sin;  // f32 [T, 1, D/2]
  at::Tensor keep;      // bool [n, hidden]: dropout of the embedding
  std::vector<LayerState> layers;
  at::Tensor h, rstd, x;
};

class AtenMinimind : public Minimind {
 public:
  AtenMinimind(const ModelConfig& config, c10::Device device, const MinimindOptions& options)
      : Minimind(config, device, options),
        sizes_(config, options.lora_rank),
        offsets_(sizes_, config.tie_word_embeddings),
        type_(ToScalarType(options.compute)) {}

  absl::StatusOr<at::Tensor> ForwardBackward(const Microbatch& microbatch,
                                             const at::Tensor& gradient,
                                             const PassOptions& options) override;
  absl::StatusOr<LossSum> EvaluateLoss(const Microbatch& microbatch) override;
  absl::StatusOr<at::Tensor> Logits(const at::Tensor& input_ids, const at::Tensor& padding_mask,
                                    int64_t logits_to_keep) override;

 private:
  AtenPass MakePass() const;
  ForwardState Forward(const AtenPass& pass, const at::Tensor& ids, const at::Tensor& document_ids,
                       const at::Tensor& padding_mask);
  void ForwardLayer(const AtenPass& pass, const ForwardState& state, int64_t index,
                    LayerState& layer, at::Tensor& residual) const;
  // T [n, attention]
  at::Tensor ForwardAttentionBlock(const AtenPass& pass, const ForwardState& state, int64_t index,
                                   LayerState& layer) const;
  // dh, the residual stream's gradient, goes from the layer's output to its input.
  void BackwardLayer(const AtenPass& pass, const ForwardState& state, int64_t index,
                     at::Tensor& dh) const;
  // The gradient of x1, T, from that of the attention's output.
  at::Tensor BackwardAttentionBlock(const AtenPass& pass, const ForwardState& state, int64_t index,
                                    const at::Tensor& d_out) const;
  void BackwardEmbedding(const AtenPass& pass, const at::Tensor& ids, const at::Tensor& dh) const;
  at::Tensor Head() const { return ProductWeights(offsets_.head, sizes_.vocab, sizes_.hidden); }
  // Of all tokens, [n, hidden].
  at::Tensor Keep(const AtenPass& pass, int64_t layer, DropoutPlace place) const {
    return KeepMask(pass, layer, place, 0, pass.rows, pass.positions, sizes_.hidden);
  }
  MlpPlace DenseMlp(const AtenPass& pass, int64_t layer) const {
    return {offsets_.layers[layer].mlp, layer, 0, pass.rows, pass.positions};
  }
  void EnsureRope(int64_t length);

  const ModelSizes sizes_;
  const ModelOffsets offsets_;
  const at::ScalarType type_;
  at::Tensor cos_, sin_;  // f32 [positions, 1, D/2]
};

// Rotates x [B, T, heads, D] of any dtype, float32; sign -1 undoes it.
at::Tensor Rotate(const at::Tensor& x, const ForwardState& state, double sign) {
  const auto halves = x.to(at::kFloat).chunk(2, -1);
  const at::Tensor sine = state.sin * sign;
  return at::cat(
      {halves[0] * state.cos - halves[1] * sine, halves[1] * state.cos + halves[0] * sine}, -1);
}

AtenPass AtenMinimind::MakePass() const {
  AtenPass pass{.sizes = sizes_, .config = config_, .type = type_};
  pass.flat = flat_parameters_;
  pass.product = compute_parameters_.defined() ? compute_parameters_ : flat_parameters_;
  pass.trained_offset = trained_offset_;
  return pass;
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

at::Tensor AtenMinimind::ForwardAttentionBlock(const AtenPass& pass, const ForwardState& state,
                                               int64_t index, LayerState& layer) const {
  const LayerOffsets& at = offsets_.layers[index];
  const int64_t dim = sizes_.head_dim;
  const int64_t kv = sizes_.kv_heads;
  const at::Tensor flat = at::mm(layer.x1, ProductWeights(at.qkv, sizes_.qkv, sizes_.hidden).t());
  AddAdapter(pass, at.q_adapter, layer.x1, flat.narrow(1, 0, sizes_.attention));
  AddAdapter(pass, at.k_adapter, layer.x1, flat.narrow(1, sizes_.attention, kv * dim));
  AddAdapter(pass, at.v_adapter, layer.x1, flat.narrow(1, sizes_.attention + kv * dim, kv * dim));
  const at::Tensor qkv = flat.view({state.batch, state.length, -1, dim});
  at::Tensor q = qkv.narrow(2, 0, sizes_.heads);
  at::Tensor k = qkv.narrow(2, sizes_.heads, kv);
  if (sizes_.qk_norm) {
    layer.raw_q = q;
    layer.raw_k = k;
    const Normed normed_q = RmsNorm(pass, q, at.q_norm);
    const Normed normed_k = RmsNorm(pass, k, at.k_norm);
    layer.q_rstd = normed_q.rstd;
    layer.k_rstd = normed_k.rstd;
    q = normed_q.y;
    k = normed_k.y;
  }
  layer.q = Rotate(q, state, 1).to(type_);
  layer.k = Rotate(k, state, 1).to(type_);
  layer.v = qkv.narrow(2, sizes_.heads + kv, kv);
  const at::Tensor keep = KeepProbabilities(pass, index, state.batch, state.length);
  layer.attention = ForwardAttention(state.plan, layer.q, layer.k, layer.v, keep, config_.dropout);
  layer.attention.out = layer.attention.out.contiguous();
  return layer.attention.out.view({-1, sizes_.attention});
}

void AtenMinimind::ForwardLayer(const AtenPass& pass, const ForwardState& state, int64_t index,
                                LayerState& layer, at::Tensor& residual) const {
  const LayerOffsets& at = offsets_.layers[index];
  layer.h1 = residual;
  const Normed first = RmsNorm(pass, layer.h1, at.norm1);
  layer.rstd1 = first.rstd;
  layer.x1 = first.y.to(type_);
  const at::Tensor attended = ForwardAttentionBlock(pass, state, index, layer);
  const at::Tensor out =
      at::mm(attended, ProductWeights(at.o, sizes_.hidden, sizes_.attention).t());
  AddAdapter(pass, at.o_adapter, attended, out);
  layer.keep = Keep(pass, index, DropoutPlace::kAttentionOutput);
  layer.h2 = layer.h1 + Drop(out, layer.keep, config_.dropout);
  const Normed second = RmsNorm(pass, layer.h2, at.norm2);
  layer.rstd2 = second.rstd;
  layer.x2 = second.y.to(type_);
  if (sizes_.experts > 0) {
    residual =
        layer.h2 + ForwardMoe(pass, {at, index, state.batch, state.length}, layer.x2, layer.moe);
  } else {
    residual = layer.h2 + ForwardMlp(pass, DenseMlp(pass, index), layer.x2, layer.mlp);
  }
}

ForwardState AtenMinimind::Forward(const AtenPass& pass, const at::Tensor& ids,
                                   const at::Tensor& document_ids, const at::Tensor& padding_mask) {
  ForwardState state;
  state.batch = ids.size(0);
  state.length = ids.size(1);
  const bool allow_flash =
      options_.attention == AttentionPath::kFused && type_ != at::kFloat && !pass.Drops();
  state.plan = PlanAttention(allow_flash, state.batch, state.length, sizes_.head_dim, device_,
                             document_ids, padding_mask);
  EnsureRope(state.length);
  state.cos = cos_.narrow(0, 0, state.length);
  state.sin = sin_.narrow(0, 0, state.length);
  state.layers.resize(sizes_.layers);
  at::Tensor residual = at::embedding(
      Vector(pass, 0, sizes_.vocab * sizes_.hidden).view({sizes_.vocab, sizes_.hidden}),
      ids.flatten());
  state.keep = Keep(pass, 0, DropoutPlace::kEmbedding);
  residual = Drop(residual, state.keep, config_.dropout);
  for (int64_t i = 0; i < sizes_.layers; ++i) {
    ForwardLayer(pass, state, i, state.layers[i], residual);
  }
  state.h = residual;
  const Normed last = RmsNorm(pass, state.h, offsets_.norm);
  state.rstd = last.rstd;
  state.x = last.y.to(type_);
  return state;
}

at::Tensor AtenMinimind::BackwardAttentionBlock(const AtenPass& pass, const ForwardState& state,
                                                int64_t index, const at::Tensor& d_out) const {
  const LayerOffsets& at = offsets_.layers[index];
  const LayerState& layer = state.layers[index];
  auto [dq, dk, dv] = BackwardAttention(state.plan, layer.q, layer.k, layer.v, layer.attention,
                                        config_.dropout, d_out.view(layer.q.sizes()));
  dq = Rotate(dq, state, -1);
  dk = Rotate(dk, state, -1);
  if (sizes_.qk_norm) {
    dq = RmsNormBackward(pass, dq, layer.raw_q, layer.q_rstd, at.q_norm);
    dk = RmsNormBackward(pass, dk, layer.raw_k, layer.k_rstd, at.k_norm);
  }
  const at::Tensor dqkv = at::cat({dq.to(type_), dk.to(type_), dv}, 2).view({-1, sizes_.qkv});
  WeightGradient(pass, dqkv, layer.x1, at.qkv);
  const at::Tensor dx = at::mm(dqkv, ProductWeights(at.qkv, sizes_.qkv, sizes_.hidden));
  const int64_t kv = sizes_.kv_heads * sizes_.head_dim;
  AdapterBackward(pass, at.q_adapter, layer.x1, dqkv.narrow(1, 0, sizes_.attention), dx);
  AdapterBackward(pass, at.k_adapter, layer.x1, dqkv.narrow(1, sizes_.attention, kv), dx);
  AdapterBackward(pass, at.v_adapter, layer.x1, dqkv.narrow(1, sizes_.attention + kv, kv), dx);
  return dx;
}

void AtenMinimind::BackwardLayer(const AtenPass& pass, const ForwardState& state, int64_t index,
                                 at::Tensor& dh) const {
  const LayerOffsets& at = offsets_.layers[index];
  const LayerState& layer = state.layers[index];
  const at::Tensor dx2 =
      sizes_.experts > 0
          ? BackwardMoe(pass, {at, index, state.batch, state.length}, layer.x2, layer.moe, dh)
          : BackwardMlp(pass, DenseMlp(pass, index), layer.x2, layer.mlp, dh.to(type_));
  dh = dh + RmsNormBackward(pass, dx2, layer.h2, layer.rstd2, at.norm2);
  const at::Tensor attended = layer.attention.out.view({-1, sizes_.attention});
  const at::Tensor d = Drop(dh, layer.keep, config_.dropout).to(type_);
  WeightGradient(pass, d, attended, at.o);
  const at::Tensor dattended = at::mm(d, ProductWeights(at.o, sizes_.hidden, sizes_.attention));
  AdapterBackward(pass, at.o_adapter, attended, d, dattended);
  dh = dh + RmsNormBackward(pass, BackwardAttentionBlock(pass, state, index, dattended), layer.h1,
                            layer.rstd1, at.norm1);
}

void AtenMinimind::BackwardEmbedding(const AtenPass& pass, const at::Tensor& ids,
                                     const at::Tensor& dh) const {
  if (pass.trained_offset > 0) return;
  at::Tensor embedding =
      pass.gradient.narrow(0, 0, sizes_.vocab * sizes_.hidden).view({sizes_.vocab, sizes_.hidden});
  if (!config_.tie_word_embeddings) embedding.zero_();
  embedding.add_(at::embedding_dense_backward(dh, ids.flatten(), sizes_.vocab, /*padding_idx=*/-1,
                                              /*scale_grad_by_freq=*/false));
}

absl::StatusOr<at::Tensor> AtenMinimind::ForwardBackward(const Microbatch& microbatch,
                                                         const at::Tensor& gradient,
                                                         const PassOptions& options) {
  absl::Status checked = CheckMicrobatch(*this, microbatch);
  if (checked.ok()) checked = CheckGradient(*this, gradient);
  if (!checked.ok()) return checked;
  const at::NoGradGuard no_grad;
  const at::Tensor ids = microbatch.input_ids.to(device_, /*dtype=*/at::kLong);
  const at::Tensor mask = microbatch.mask.to(device_, at::kBool).flatten();
  const at::Tensor targets =
      microbatch.targets.to(device_, at::kLong).flatten().masked_fill(mask.logical_not(), kIgnored);
  // A microbatch without a counted target divides zeros by one and drops the auxiliary losses;
  // nothing waits for the device.
  const at::Tensor counted = mask.sum();
  const at::Tensor weight = counted.clamp_min(1).to(at::kFloat).reciprocal();
  const at::Tensor any = counted.gt(0).to(at::kFloat);
  AtenPass pass = MakePass();
  pass.gradient = gradient;
  pass.training = true;
  pass.dropout_key = options.dropout_key;
  pass.auxiliary_scale = any * options.loss_scale;
  if (pass.Drops()) {
    const at::Tensor index = at::arange(ids.numel(), ids.options());
    pass.rows = index.floor_divide(ids.size(1));
    pass.positions = index.remainder(ids.size(1));
  }
  const ForwardState state = Forward(pass, ids, microbatch.document_ids, {});

  const at::Tensor head = Head();
  const at::Tensor log_p =
      at::_log_softmax(at::mm(state.x, head.t()).to(at::kFloat), 1, /*half_to_float=*/false);
  const auto [sum, total] = at::nll_loss_forward(log_p, targets, {}, at::Reduction::Sum, kIgnored);
  const at::Tensor d_log_p = at::nll_loss_backward(weight * options.loss_scale, log_p, targets, {},
                                                   at::Reduction::Sum, kIgnored, total);
  const at::Tensor dlogits =
      at::_log_softmax_backward_data(d_log_p, log_p, 1, at::kFloat).to(type_);
  WeightGradient(pass, dlogits, state.x, offsets_.head);
  at::Tensor dh = RmsNormBackward(pass, at::mm(dlogits, head), state.h, state.rstd, offsets_.norm);
  at::Tensor loss = sum * weight;
  for (int64_t i = sizes_.layers - 1; i >= 0; --i) BackwardLayer(pass, state, i, dh);
  BackwardEmbedding(pass, ids, Drop(dh, state.keep, config_.dropout));
  for (const LayerState& layer : state.layers) {
    if (layer.moe.auxiliary.defined()) loss = loss + layer.moe.auxiliary * any;
  }
  return loss;
}

absl::StatusOr<LossSum> AtenMinimind::EvaluateLoss(const Microbatch& microbatch) {
  const absl::Status checked = CheckMicrobatch(*this, microbatch);
  if (!checked.ok()) return checked;
  const at::NoGradGuard no_grad;
  const at::Tensor mask = microbatch.mask.to(device_, at::kBool).flatten();
  const at::Tensor targets = microbatch.targets.to(device_, at::kLong).view({-1, 1});
  const ForwardState state =
      Forward(MakePass(), microbatch.input_ids.to(device_), microbatch.document_ids, {});
  const at::Tensor log_p = at::log_softmax(at::mm(state.x, Head().t()).to(at::kFloat), 1);
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
  AtenPass pass = MakePass();
  pass.routing = options_.routing;
  const ForwardState state = Forward(pass, input_ids.to(device_), {}, padding_mask);
  const int64_t keep = logits_to_keep == 0 ? state.length : logits_to_keep;
  const at::Tensor x = state.x.view({state.batch, state.length, sizes_.hidden})
                           .narrow(1, state.length - keep, keep)
                           .reshape({-1, sizes_.hidden});
  return at::mm(x, Head().t()).to(at::kFloat).view({state.batch, keep, sizes_.vocab});
}

}  // namespace

std::unique_ptr<Minimind> MakeAtenMinimind(const ModelConfig& config, c10::Device device,
                                           const MinimindOptions& options) {
  MakeDeterministic(device);
  return std::make_unique<AtenMinimind>(config, device, options);
}

}  // namespace mindforge
