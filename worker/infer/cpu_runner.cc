#include "worker/infer/cpu_runner.h"

#include <cmath>
#include <cstring>
#include <utility>

#include "common/check.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

int64_t RoundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

int64_t ValueStride(const ModelConfig& config) { return RoundUp(config.HeadDim(), 16); }

}  // namespace

int64_t CpuRunner::KvBytes(const ModelConfig& config, InferDtype dtype, int64_t slots,
                           int64_t max_context) {
  const int64_t per_position = config.num_hidden_layers * config.num_key_value_heads *
                               (config.HeadDim() + ValueStride(config));
  const int64_t element = dtype == InferDtype::kFloat32 ? 4 : 2;
  return slots * RoundUp(max_context, kKeyBlock) * per_position * element;
}

CpuRunner::CpuRunner(CpuModel model, const CpuRunnerOptions& options)
    : model_(std::move(model)),
      options_(options),
      kernels_(GetInferKernels(options.isa, model_.dtype)),
      numerics_id_(kernels_.numerics),
      element_(kernels_.element_bytes),
      hidden_(model_.config.hidden_size),
      heads_(model_.config.num_attention_heads),
      kv_heads_(model_.config.num_key_value_heads),
      head_dim_(model_.config.HeadDim()),
      qkv_columns_((heads_ + 2 * kv_heads_) * head_dim_),
      hidden_stride_(RoundUp(hidden_, 2)),
      attended_stride_(RoundUp(heads_ * head_dim_, 2)),
      inner_stride_(RoundUp(model_.config.IntermediateSize(), 2)),
      team_(options.threads) {}

absl::StatusOr<std::unique_ptr<CpuRunner>> CpuRunner::Create(CpuModel model,
                                                             const CpuRunnerOptions& options) {
  MF_CHECK_LE(options.max_context, model.rope.positions);
  std::unique_ptr<CpuRunner> runner(new CpuRunner(std::move(model), options));
  RETURN_IF_ERROR(runner->Allocate());
  return runner;
}

absl::Status CpuRunner::Allocate() {
  const int64_t batch = options_.max_batch_tokens;
  const int64_t positions = RoundUp(options_.max_context, kKeyBlock);
  const int64_t value_stride = ValueStride(model_.config);
  const int64_t heads = options_.slots * model_.config.num_hidden_layers * kv_heads_;
  const int64_t key_bytes = positions * head_dim_ * element_;
  const int64_t value_bytes = positions * value_stride * element_;
  ASSIGN_OR_RETURN(keys_, HugeBuffer::Allocate(heads * key_bytes));
  ASSIGN_OR_RETURN(values_, HugeBuffer::Allocate(heads * value_bytes));
  for (int64_t i = 0; i < heads; ++i) {
    caches_.push_back({.keys = keys_.data() + i * key_bytes,
                       .values = values_.data() + i * value_bytes,
                       .value_stride = value_stride});
  }
  ASSIGN_OR_RETURN(normed_, HugeBuffer::Allocate(batch * hidden_stride_ * element_));
  ASSIGN_OR_RETURN(attended_, HugeBuffer::Allocate(batch * attended_stride_ * element_));
  if (model_.config.use_moe) {
    ASSIGN_OR_RETURN(moe_, CpuMoe::Create(model_.config, model_.dtype, options_.isa, batch, team_));
  } else {
    ASSIGN_OR_RETURN(inner_, HugeBuffer::Allocate(batch * inner_stride_ * element_));
  }
  residual_.resize(batch * hidden_);
  qkv_.resize(batch * qkv_columns_);
  return absl::OkStatus();
}

HeadCache* CpuRunner::Caches(int64_t slot, int64_t layer) {
  return &caches_[(slot * model_.config.num_hidden_layers + layer) * kv_heads_];
}

absl::Status CpuRunner::Forward(const StepBatch& batch, float* logits) {
  MF_CHECK_LE(batch.TokenCount(), options_.max_batch_tokens);
  tokens_.clear();
  logits_tokens_.clear();
  for (const StepRow& row : batch.rows) {
    const auto count = static_cast<int64_t>(row.tokens.size());
    MF_CHECK(row.slot >= 0 && row.slot < options_.slots) << "slot " << row.slot;
    MF_CHECK(row.start_position >= 0 && row.start_position + count <= options_.max_context)
        << "positions " << row.start_position << " + " << count;
    for (int64_t i = 0; i < count; ++i) {
      MF_CHECK(row.tokens[i] >= 0 && row.tokens[i] < vocab_size()) << "id " << row.tokens[i];
      if (i >= count - row.logits) logits_tokens_.push_back(static_cast<int64_t>(tokens_.size()));
      tokens_.push_back({row.tokens[i], row.slot, row.start_position + i});
    }
  }
  team_.Run([&](int64_t me) { Work(me, logits); });
  return absl::OkStatus();
}

void CpuRunner::Work(int64_t me, float* logits) {
  Embed(me);
  team_.Meet();
  for (int64_t i = 0; i < model_.config.num_hidden_layers; ++i) {
    const CpuLayer& layer = model_.layers[i];
    Norm(me, layer.input_norm);
    team_.Meet();
    Multiply(me, layer.qkv, normed_, hidden_stride_, qkv_.data(), qkv_columns_, false);
    team_.Meet();
    Place(me, i);
    team_.Meet();
    Attend(me, i);
    team_.Meet();
    Multiply(me, layer.out, attended_, attended_stride_, residual_.data(), hidden_, true);
    team_.Meet();
    FeedForward(me, layer);
    team_.Meet();
  }
  Head(me, logits);
}

void CpuRunner::Embed(int64_t me) {
  const auto [begin, end] = team_.Share(static_cast<int64_t>(tokens_.size()), me);
  for (int64_t t = begin; t < end; ++t) {
    const std::byte* row = model_.embedding.data() + tokens_[t].id * hidden_ * element_;
    float* to = &residual_[t * hidden_];
    if (model_.dtype == InferDtype::kFloat32) {
      std::memcpy(to, row, hidden_ * sizeof(float));
      continue;
    }
    const auto* bits = reinterpret_cast<const uint16_t*>(row);
    for (int64_t i = 0; i < hidden_; ++i) to[i] = FloatFromBfloat16(bits[i]);
  }
}

void CpuRunner::Norm(int64_t me, const std::vector<float>& weight) {
  const auto eps = static_cast<float>(model_.config.rms_norm_eps);
  const auto [begin, end] = team_.Share(static_cast<int64_t>(tokens_.size()), me);
  for (int64_t t = begin; t < end; ++t) {
    kernels_.rms_norm(&residual_[t * hidden_], weight.data(), hidden_, eps,
                      Element(normed_, t * hidden_stride_));
  }
}

void CpuRunner::Multiply(int64_t me, const PackedMatrix& matrix, HugeBuffer& x, int64_t x_stride,
                         float* y, int64_t y_stride, bool accumulate) {
  const auto [begin, end] = team_.Share(matrix.panels(), me);
  for (int64_t p = begin; p < end; ++p) {
    kernels_.matmul({.x = x.data(),
                     .x_stride = x_stride,
                     .rows = static_cast<int64_t>(tokens_.size()),
                     .panel = matrix.panel(p),
                     .k = matrix.k,
                     .y = y + p * kPanelColumns,
                     .y_stride = y_stride,
                     .columns = matrix.panel_columns(p),
                     .accumulate = accumulate});
  }
}

void CpuRunner::Place(int64_t me, int64_t layer) {
  const CpuLayer& weights = model_.layers[layer];
  const bool norms = !weights.query_norm.empty();
  const auto [begin, end] = team_.Share(static_cast<int64_t>(tokens_.size()), me);
  for (int64_t t = begin; t < end; ++t) {
    float* row = &qkv_[t * qkv_columns_];
    const int64_t position = tokens_[t].position;
    kernels_.place({.query = row,
                    .heads = heads_,
                    .key = row + heads_ * head_dim_,
                    .value = row + (heads_ + kv_heads_) * head_dim_,
                    .kv_heads = kv_heads_,
                    .head_dim = head_dim_,
                    .cos = &model_.rope.cos[position * model_.rope.half],
                    .sin = &model_.rope.sin[position * model_.rope.half],
                    .query_norm = norms ? weights.query_norm.data() : nullptr,
                    .key_norm = norms ? weights.key_norm.data() : nullptr,
                    .eps = static_cast<float>(model_.config.rms_norm_eps),
                    .query_scale = 1.0f / std::sqrt(static_cast<float>(head_dim_)),
                    .position = position,
                    .caches = Caches(tokens_[t].slot, layer)});
  }
}

void CpuRunner::Attend(int64_t me, int64_t layer) {
  const int64_t group = heads_ / kv_heads_;
  const int64_t units = static_cast<int64_t>(tokens_.size()) * kv_heads_;
  for (int64_t unit = me; unit < units; unit += team_.size()) {
    const int64_t t = unit / kv_heads_;
    const int64_t kv_head = unit % kv_heads_;
    const int64_t first = kv_head * group * head_dim_;
    kernels_.attend({.query = &qkv_[t * qkv_columns_ + first],
                     .group = group,
                     .head_dim = head_dim_,
                     .cache = Caches(tokens_[t].slot, layer)[kv_head],
                     .keys = tokens_[t].position + 1,
                     .out = Element(attended_, t * attended_stride_ + first)});
  }
}

void CpuRunner::FeedForward(int64_t me, const CpuLayer& layer) {
  if (moe_ != nullptr) {
    moe_->Work(me, layer, static_cast<int64_t>(tokens_.size()), residual_.data());
    return;
  }
  Norm(me, layer.post_norm);
  team_.Meet();
  GateAndUp(me, layer.mlp);
  team_.Meet();
  Multiply(me, layer.mlp.down, inner_, inner_stride_, residual_.data(), hidden_, true);
}

void CpuRunner::GateAndUp(int64_t me, const CpuMlp& mlp) {
  const auto [begin, end] = team_.Share(mlp.gate.panels(), me);
  for (int64_t p = begin; p < end; ++p) {
    kernels_.swiglu({.x = normed_.data(),
                     .x_stride = hidden_stride_,
                     .rows = static_cast<int64_t>(tokens_.size()),
                     .gate = mlp.gate.panel(p),
                     .up = mlp.up.panel(p),
                     .k = mlp.gate.k,
                     .y = Element(inner_, p * kPanelColumns),
                     .y_stride = inner_stride_,
                     .columns = mlp.gate.panel_columns(p)});
  }
}

void CpuRunner::Head(int64_t me, float* logits) {
  const auto eps = static_cast<float>(model_.config.rms_norm_eps);
  const auto rows = static_cast<int64_t>(logits_tokens_.size());
  const auto [first, last] = team_.Share(rows, me);
  for (int64_t i = first; i < last; ++i) {
    kernels_.rms_norm(&residual_[logits_tokens_[i] * hidden_], model_.final_norm.data(), hidden_,
                      eps, Element(normed_, i * hidden_stride_));
  }
  team_.Meet();
  const auto [begin, end] = team_.Share(model_.head.panels(), me);
  for (int64_t p = begin; p < end; ++p) {
    kernels_.matmul({.x = normed_.data(),
                     .x_stride = hidden_stride_,
                     .rows = rows,
                     .panel = model_.head.panel(p),
                     .k = model_.head.k,
                     .y = logits + p * kPanelColumns,
                     .y_stride = vocab_size(),
                     .columns = model_.head.panel_columns(p)});
  }
}

}  // namespace mindforge
