#include "worker/model/minimind.h"

#include <ATen/Context.h>
#include <ATen/Functions.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "worker/kernels/philox.h"
#include "worker/model/aten_minimind.h"
#include "worker/model/layout.h"
#include "worker/model/table_minimind.h"

namespace mindforge {
namespace {

absl::Status CheckConfig(const ModelConfig& config) {
  std::vector<std::string> problems;
  for (const auto& problem : ValidateModelConfig(config)) {
    problems.push_back(absl::StrCat(problem.field, ": ", problem.reason));
  }
  if (!problems.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the model configuration cannot be built: ", absl::StrJoin(problems, "; ")));
  }
  return absl::OkStatus();
}

absl::Status CheckLora(const ModelConfig& config, int64_t rank) {
  if (rank == 0) return absl::OkStatus();
  if (rank < 0 || rank > config.hidden_size) {
    return absl::InvalidArgumentError(absl::StrCat("lora_rank must lie in 1 … hidden_size ",
                                                   config.hidden_size, ", it is ", rank));
  }
  const ModelOffsets offsets(ModelSizes(config, rank), config.tie_word_embeddings);
  if (offsets.adapters < offsets.end) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "lora_rank is set, but the model has no square projection that could carry an adapter; train "
      "it without LoRA");
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

// N(0, deviation²): with 1 PyTorch's default for an Embedding that is not tied to the head.
void FillNormal(uint64_t seed, uint64_t index, double deviation, int64_t size, float* out) {
  for (int64_t i = 0; i < size; i += 2) {
    const auto bits = Philox(seed, index, static_cast<uint64_t>(i / 2));
    const double radius = deviation * std::sqrt(-2.0 * std::log((bits[0] + 1.0) * 0x1p-32));
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

c10::ScalarType ToScalarType(ComputeDtype compute) {
  switch (compute) {
    case ComputeDtype::kFloat32:
      return c10::kFloat;
    case ComputeDtype::kBfloat16:
      return c10::kBFloat16;
    case ComputeDtype::kFloat16:
      break;
  }
  return c10::kHalf;
}

absl::StatusOr<std::unique_ptr<Minimind>> Minimind::Create(const ModelConfig& config,
                                                           c10::Device device,
                                                           const MinimindOptions& options) {
  absl::Status status = CheckConfig(config);
  if (status.ok()) status = CheckLora(config, options.lora_rank);
  if (!status.ok()) return status;
  if (!device.is_cpu() && !(device.is_cuda() && at::hasCUDA())) {
    return absl::FailedPreconditionError(
        absl::StrCat("device ", device.str(), " is not available to this build and machine"));
  }
  // Tensors always carry an index; a bare `cuda` would equal none of theirs.
  if (device.is_cuda() && !device.has_index()) device.set_index(0);
  // What the table lacks, float16 on the CPU, is composed of LibTorch's operators.
  if (HasColumn(device, options.compute)) {
    return MakeTableMinimind(config, device, Effective(config, options));
  }
  return MakeAtenMinimind(config, device, Effective(config, options));
}

Minimind::Minimind(const ModelConfig& config, c10::Device device, const MinimindOptions& options)
    : config_(config),
      device_(device),
      options_(options),
      parameters_(MinimindParameters(config, options.lora_rank)),
      parameter_count_(parameters_.back().offset + parameters_.back().size),
      trained_offset_(options.lora_rank == 0 ? 0
                                             : ModelOffsets(ModelSizes(config, options.lora_rank),
                                                            config.tie_word_embeddings)
                                                   .adapters) {
  const auto floats = at::TensorOptions().device(device).dtype(at::kFloat);
  flat_parameters_ = at::zeros({parameter_count_}, floats);
  if (options.compute != ComputeDtype::kFloat32) {
    compute_parameters_ =
        at::zeros({parameter_count_}, floats.dtype(ToScalarType(options.compute)));
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
    } else if (view.name.ends_with(".lora.A.weight")) {
      FillNormal(seed, i, 0.02, view.size, begin);
    } else if (view.name.ends_with(".lora.B.weight")) {
      std::fill(begin, begin + view.size, 0.0f);
    } else if (i == 0 && !config_.tie_word_embeddings) {
      FillNormal(seed, i, 1.0, view.size, begin);
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
