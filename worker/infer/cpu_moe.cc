#include "worker/infer/cpu_moe.h"

#include <algorithm>
#include <cstring>

#include "common/status_macros.h"

namespace mindforge {
namespace {

// Rows of one product before they are added to the residual: a block that stays in the cache.
constexpr int64_t kCombineRows = 32;
// Up to so many tokens one member routes: to meet costs more than to share the work.
constexpr int64_t kFewTokens = 8;
// Keeps normalised weights finite when all scores are zero, as in the reference.
constexpr float kTinySum = 1e-20f;

int64_t RoundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

CpuMoe::CpuMoe(const ModelConfig& config, InferDtype dtype, InferIsa isa, ThreadTeam& team)
    : config_(config),
      kernels_(GetInferKernels(isa, dtype)),
      wide_kernels_(GetInferKernels(isa, InferDtype::kFloat32)),
      wide_is_normed_(dtype == InferDtype::kFloat32),
      hidden_(config.hidden_size),
      experts_(config.n_routed_experts),
      per_token_(config.num_experts_per_tok),
      scores_stride_(RoundUp(experts_, kPanelColumns)),
      hidden_stride_(RoundUp(hidden_, 2)),
      inner_stride_(RoundUp(config.MoeIntermediateSize(), 2)),
      team_(team) {}

absl::StatusOr<std::unique_ptr<CpuMoe>> CpuMoe::Create(const ModelConfig& config, InferDtype dtype,
                                                       InferIsa isa, int64_t max_tokens,
                                                       ThreadTeam& team) {
  std::unique_ptr<CpuMoe> moe(new CpuMoe(config, dtype, isa, team));
  RETURN_IF_ERROR(moe->Allocate(max_tokens));
  return moe;
}

absl::Status CpuMoe::Allocate(int64_t max_tokens) {
  const int64_t element = kernels_.element_bytes;
  const int64_t rows = max_tokens * per_token_;
  const int64_t inner_rows = rows + max_tokens * config_.n_shared_experts;
  ASSIGN_OR_RETURN(normed_, HugeBuffer::Allocate(max_tokens * hidden_stride_ * element));
  if (!wide_is_normed_) {
    ASSIGN_OR_RETURN(wide_, HugeBuffer::Allocate(max_tokens * hidden_stride_ * sizeof(float)));
  }
  ASSIGN_OR_RETURN(gathered_, HugeBuffer::Allocate(rows * hidden_stride_ * element));
  ASSIGN_OR_RETURN(inner_, HugeBuffer::Allocate(inner_rows * inner_stride_ * element));
  scores_.resize(max_tokens * scores_stride_);
  chosen_.resize(rows);
  rows_.resize(rows);
  first_row_.resize(experts_ + 1);
  next_row_.resize(experts_);
  return absl::OkStatus();
}

void CpuMoe::Work(int64_t me, const CpuLayer& layer, int64_t tokens, float* residual) {
  const int64_t rows = tokens * per_token_;
  if (tokens <= kFewTokens) {
    if (me == 0) {
      Route(0, tokens, layer, residual);
      Group(tokens);
      Gather(0, rows);
    }
  } else {
    const auto [first_token, end_token] = team_.Share(tokens, me);
    Route(first_token, end_token, layer, residual);
    team_.Meet();
    if (me == 0) Group(tokens);
    team_.Meet();
    const auto [first_row, end_row] = team_.Share(rows, me);
    Gather(first_row, end_row);
  }
  team_.Meet();
  GateAndUp(me, layer, tokens);
  team_.Meet();
  Combine(me, layer, tokens, residual);
}

void CpuMoe::Route(int64_t begin, int64_t end, const CpuLayer& layer, const float* residual) {
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  HugeBuffer& wide = wide_is_normed_ ? normed_ : wide_;
  for (int64_t t = begin; t < end; ++t) {
    const float* x = residual + t * hidden_;
    kernels_.rms_norm(x, layer.post_norm.data(), hidden_, eps,
                      Element(normed_, t * hidden_stride_));
    if (wide_is_normed_) continue;
    wide_kernels_.rms_norm(x, layer.post_norm.data(), hidden_, eps,
                           wide.data() + t * hidden_stride_ * sizeof(float));
  }
  for (int64_t p = 0; p < layer.router.panels(); ++p) {
    wide_kernels_.matmul({.x = wide.data() + begin * hidden_stride_ * sizeof(float),
                          .x_stride = hidden_stride_,
                          .rows = end - begin,
                          .panel = layer.router.panel(p),
                          .k = hidden_,
                          .y = &scores_[begin * scores_stride_ + p * kPanelColumns],
                          .y_stride = scores_stride_,
                          .columns = layer.router.panel_columns(p)});
  }
  for (int64_t t = begin; t < end; ++t) {
    Choose(&scores_[t * scores_stride_], &chosen_[t * per_token_]);
  }
}

// The likeliest experts, the lowest index on ties.
void CpuMoe::Choose(float* scores, Choice* chosen) const {
  wide_kernels_.softmax(scores, experts_);
  float sum = 0;
  for (int64_t j = 0; j < per_token_; ++j) {
    int64_t best = -1;
    for (int64_t e = 0; e < experts_; ++e) {
      bool taken = false;
      for (int64_t i = 0; i < j; ++i) taken |= chosen[i].expert == e;
      // Scores that are no numbers, of broken weights, still choose somebody.
      if (!taken && (best < 0 || scores[e] > scores[best])) best = e;
    }
    chosen[j] = {best, scores[best]};
    sum += scores[best];
  }
  if (!config_.NormalizesTopK()) return;
  for (int64_t j = 0; j < per_token_; ++j) chosen[j].weight /= sum + kTinySum;
}

void CpuMoe::Group(int64_t tokens) {
  std::fill(next_row_.begin(), next_row_.end(), 0);
  const int64_t rows = tokens * per_token_;
  for (int64_t i = 0; i < rows; ++i) ++next_row_[chosen_[i].expert];
  int64_t row = 0;
  for (int64_t e = 0; e < experts_; ++e) {
    first_row_[e] = row;
    row += next_row_[e];
    next_row_[e] = first_row_[e];
  }
  first_row_[experts_] = row;
  for (int64_t i = 0; i < rows; ++i) {
    rows_[next_row_[chosen_[i].expert]++] = {i / per_token_, chosen_[i].weight};
  }
}

void CpuMoe::Gather(int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    std::memcpy(Element(gathered_, r * hidden_stride_),
                Element(normed_, rows_[r].token * hidden_stride_),
                hidden_ * kernels_.element_bytes);
  }
}

void CpuMoe::GateAndUp(int64_t me, const CpuLayer& layer, int64_t tokens) {
  int64_t unit = 0;  // counted over all experts, so that members get even shares
  const auto multiply = [&](const CpuMlp& mlp, const void* x, int64_t rows, int64_t first_row) {
    for (int64_t p = 0; p < mlp.gate.panels(); ++p) {
      if (unit++ % team_.size() != me) continue;
      kernels_.swiglu({.x = x,
                       .x_stride = hidden_stride_,
                       .rows = rows,
                       .gate = mlp.gate.panel(p),
                       .up = mlp.up.panel(p),
                       .k = hidden_,
                       .y = Element(inner_, first_row * inner_stride_ + p * kPanelColumns),
                       .y_stride = inner_stride_,
                       .columns = mlp.gate.panel_columns(p)});
    }
  };
  for (int64_t e = 0; e < experts_; ++e) {
    if (rows_of(e) == 0) continue;
    multiply(layer.experts[e], Element(gathered_, first_row_[e] * hidden_stride_), rows_of(e),
             first_row_[e]);
  }
  int64_t first = first_row_[experts_];
  for (const CpuMlp& shared : layer.shared_experts) {
    multiply(shared, normed_.data(), tokens, first);
    first += tokens;
  }
}

void CpuMoe::Combine(int64_t me, const CpuLayer& layer, int64_t tokens, float* residual) {
  const int64_t panels = (hidden_ + kPanelColumns - 1) / kPanelColumns;
  const auto [begin, end] = team_.Share(panels, me);
  for (int64_t p = begin; p < end; ++p) {
    for (int64_t e = 0; e < experts_; ++e) {
      AddExpert(layer.experts[e].down, p, first_row_[e], first_row_[e + 1], residual);
    }
    int64_t first = first_row_[experts_];
    for (const CpuMlp& shared : layer.shared_experts) {
      kernels_.matmul({.x = Element(inner_, first * inner_stride_),
                       .x_stride = inner_stride_,
                       .rows = tokens,
                       .panel = shared.down.panel(p),
                       .k = shared.down.k,
                       .y = residual + p * kPanelColumns,
                       .y_stride = hidden_,
                       .columns = shared.down.panel_columns(p),
                       .accumulate = true});
      first += tokens;
    }
  }
}

// residual += weight · (inner · downᵀ) for one panel of columns of an expert's rows.
void CpuMoe::AddExpert(const PackedMatrix& down, int64_t panel, int64_t first_row, int64_t end_row,
                       float* residual) const {
  const int64_t columns = down.panel_columns(panel);
  float product[kCombineRows * kPanelColumns];
  for (int64_t row = first_row; row < end_row; row += kCombineRows) {
    const int64_t count = std::min(kCombineRows, end_row - row);
    kernels_.matmul({.x = inner_.data() + row * inner_stride_ * kernels_.element_bytes,
                     .x_stride = inner_stride_,
                     .rows = count,
                     .panel = down.panel(panel),
                     .k = down.k,
                     .y = product,
                     .y_stride = kPanelColumns,
                     .columns = columns});
    for (int64_t i = 0; i < count; ++i) {
      const Row& to = rows_[row + i];
      float* y = residual + to.token * hidden_ + panel * kPanelColumns;
      for (int64_t c = 0; c < columns; ++c) y[c] += to.weight * product[i * kPanelColumns + c];
    }
  }
}

}  // namespace mindforge
