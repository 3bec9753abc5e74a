#include "worker/model/minimind.h"

#include <ATen/Context.h>
#include <ATen/Functions.h>

#include <cmath>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "worker/kernels/philox.h"
#include "worker/model/aten_minimind.h"
#include "worker/model/cpu_minimind.h"

namespace mindforge {
namespace {

absl::Status CheckSupported(const ModelConfig& config) {
  std::vector<std::string> problems;
  for (const auto& problem : ValidateModelConfig(config)) {
    problems.push_back(absl::StrCat(problem.field, ": ", problem.reason));
  }
  if (!problems.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the model configuration cannot be built: ", absl::StrJoin(problems, "; ")));
  }
  const auto unimplemented = [](const char* what) {
    return absl::UnimplementedError(
        absl::StrCat("training a model with ", what, " is not supported yet; use a dense model"));
  };
  if (config.use_moe) return unimplemented("use_moe: true");
  if (config.qk_norm) return unimplemented("qk_norm: true");
  if (config.dropout > 0) return unimplemented("dropout > 0");
  return absl::OkStatus();
}

// Uniform in ±1/sqrt(fan_in), PyTorch's default for Linear.
void FillUniform(uint64_t seed, uint64_t index, int64_t fan_in, int64_t size, float* out) {
  const float bound = static_cast<float>(1.0 / std::sqrt(static_cast<double>(fan_in)));
  for (int64_t i = 0; i < size; i += 4) {
    const auto bits = Philox(seed, index, static_cast<uint64_t>(i / 4));
    for (int64_t j = 0; j < 4 && i + j < size; ++j) {
      out[i + j] = (2.0f * UniformFloat(bits[j]) - 1.0f) * bound;
    }
  }
}

// N(0, 1), PyTorch's default for an Embedding that is not tied to the head.
void FillNormal(uint64_t seed, uint64_t index, int64_t size, float* out) {
  for (int64_t i = 0; i < size; i += 2) {
    const auto bits = Philox(seed, index, static_cast<uint64_t>(i / 2));
    const double radius = std::sqrt(-2.0 * std::log((bits[0] + 1.0) * 0x1p-32));
    const double angle = 2.0 * std::numbers::pi * bits[1] * 0x1p-32;
    out[i] = static_cast<float>(radius * std::cos(angle));
    if (i + 1 < size) out[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
}

MinimindOptions Effective(const ModelConfig& config, MinimindOptions options) {
  if (!config.flash_attention) options.attention = AttentionPath::kPlain;
  return options;
}

}  // namespace

std::vector<ParameterView> MinimindParameters(const ModelConfig& config) {
  std::vector<ParameterView> views;
  int64_t offset = 0;
  const auto add = [&](std::string name, std::vector<int64_t> shape) {
    int64_t size = 1;
    for (const int64_t extent : shape) size *= extent;
    views.push_back({std::move(name), std::move(shape), offset, size});
    offset += size;
  };
  const int64_t hidden = config.hidden_size;
  const int64_t heads = config.num_attention_heads * config.HeadDim();
  const int64_t kv_heads = config.num_key_value_heads * config.HeadDim();
  const int64_t inner = config.IntermediateSize();
  add("model.embed_tokens.weight", {config.vocab_size, hidden});
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    add(prefix + "self_attn.q_proj.weight", {heads, hidden});
    add(prefix + "self_attn.k_proj.weight", {kv_heads, hidden});
    add(prefix + "self_attn.v_proj.weight", {kv_heads, hidden});
    add(prefix + "self_attn.o_proj.weight", {hidden, heads});
    add(prefix + "input_layernorm.weight", {hidden});
    add(prefix + "post_attention_layernorm.weight", {hidden});
    add(prefix + "mlp.gate_proj.weight", {inner, hidden});
    add(prefix + "mlp.up_proj.weight", {inner, hidden});
    add(prefix + "mlp.down_proj.weight", {hidden, inner});
  }
  add("model.norm.weight", {hidden});
  if (!config.tie_word_embeddings) add("lm_head.weight", {config.vocab_size, hidden});
  return views;
}

absl::StatusOr<std::unique_ptr<Minimind>> Minimind::Create(const ModelConfig& config,
                                                           c10::Device device,
                                                           const MinimindOptions& options) {
  const absl::Status supported = CheckSupported(config);
  if (!supported.ok()) return supported;
  if (!device.is_cpu() && !(device.is_cuda() && at::hasCUDA())) {
    return absl::FailedPreconditionError(
        absl::StrCat("device ", device.str(), " is not available to this build and machine"));
  }
  if (device.is_cpu()) return MakeCpuMinimind(config, Effective(config, options));
  return MakeAtenMinimind(config, device, Effective(config, options));
}

Minimind::Minimind(const ModelConfig& config, c10::Device device, const MinimindOptions& options)
    : config_(config),
      device_(device),
      options_(options),
      parameters_(MinimindParameters(config)),
      parameter_count_(parameters_.back().offset + parameters_.back().size) {
  const auto floats = at::TensorOptions().device(device).dtype(at::kFloat);
  flat_parameters_ = at::zeros({parameter_count_}, floats);
  if (options.compute == ComputeDtype::kBfloat16) {
    compute_parameters_ = at::zeros({parameter_count_}, floats.dtype(at::kBFloat16));
  }
}

void Minimind::InitializeWeights(uint64_t seed) {
  const at::Tensor host = at::empty({parameter_count_}, at::kFloat);
  auto* out = host.mutable_data_ptr<float>();
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const ParameterView& view = parameters_[i];
    float* begin = out + view.offset;
    if (view.shape.size() == 1) {
      std::fill(begin, begin + view.size, 1.0f);
    } else if (i == 0 && !config_.tie_word_embeddings) {
      FillNormal(seed, i, view.size, begin);
    } else {
      FillUniform(seed, i, view.shape[1], view.size, begin);
    }
  }
  flat_parameters_.copy_(host);
  ParametersChanged();
}

at::Tensor Minimind::Parameter(const ParameterView& view) const {
  return flat_parameters_.narrow(0, view.offset, view.size).view(view.shape);
}

void Minimind::ParametersChanged() {
  if (compute_parameters_.defined()) compute_parameters_.copy_(flat_parameters_);
}

at::Tensor Minimind::ProductWeights(int64_t offset, int64_t rows, int64_t columns) const {
  const at::Tensor& flat = compute_parameters_.defined() ? compute_parameters_ : flat_parameters_;
  return flat.narrow(0, offset, rows * columns).view({rows, columns});
}

}  // namespace mindforge
