#include "worker/train/parameters_io.h"

#include <ATen/ops/from_blob.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

constexpr size_t kMaxProblems = 20;

at::ScalarType ScalarTypeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return at::kFloat;
    case DType::kF16:
      return at::kHalf;
    case DType::kBF16:
      return at::kBFloat16;
    default:
      return at::ScalarType::Undefined;
  }
}

absl::Status Problems(std::vector<std::string> problems) {
  if (problems.empty()) return absl::OkStatus();
  const size_t all = problems.size();
  if (all > kMaxProblems) {
    problems.resize(kMaxProblems);
    problems.push_back(absl::StrCat("and ", all - kMaxProblems, " more"));
  }
  return absl::InvalidArgumentError(absl::StrJoin(problems, "; "));
}

}  // namespace

std::string FirstMomentName(std::string_view name) {
  return absl::StrCat("exp_avg.", std::string(name));
}
std::string SecondMomentName(std::string_view name) {
  return absl::StrCat("exp_avg_sq.", std::string(name));
}

std::string Mismatch(const ParameterView& parameter, const TensorView* tensor) {
  if (tensor == nullptr) return absl::StrCat(parameter.name, " is missing");
  if (tensor->shape != parameter.shape) {
    return absl::StrCat(parameter.name, " is ", ShapeToString(tensor->shape), ", the model has ",
                        ShapeToString(parameter.shape));
  }
  if (ScalarTypeOf(tensor->dtype) == at::ScalarType::Undefined) {
    return absl::StrCat(parameter.name, " has dtype ", std::string(DTypeName(tensor->dtype)),
                        ", expected F32, F16 or BF16");
  }
  return "";
}

absl::Status LoadFlat(const std::vector<ParameterView>& parameters,
                      const std::function<const TensorView*(const ParameterView&)>& find,
                      const at::Tensor& flat) {
  std::vector<std::string> problems;
  for (const ParameterView& parameter : parameters) {
    const TensorView* tensor = find(parameter);
    std::string problem = Mismatch(parameter, tensor);
    if (!problem.empty()) {
      problems.push_back(std::move(problem));
      continue;
    }
    const at::Tensor source = at::from_blob(const_cast<void*>(tensor->data), {parameter.size},
                                            ScalarTypeOf(tensor->dtype));
    flat.narrow(0, parameter.offset, parameter.size).copy_(source);
  }
  return Problems(std::move(problems));
}

std::vector<ParameterView> TrainedParameters(const Minimind& model) {
  std::vector<ParameterView> trained;
  for (ParameterView parameter : model.parameters()) {
    if (parameter.offset < model.trained_offset()) continue;
    parameter.offset -= model.trained_offset();
    trained.push_back(std::move(parameter));
  }
  return trained;
}

std::vector<TensorView> ViewsOf(const std::vector<ParameterView>& parameters,
                                const std::function<std::string(std::string_view)>& name_of,
                                const float* flat) {
  std::vector<TensorView> views;
  for (const ParameterView& parameter : parameters) {
    views.push_back({.name = name_of(parameter.name),
                     .dtype = DType::kF32,
                     .shape = parameter.shape,
                     .data = flat + parameter.offset,
                     .bytes = parameter.size * static_cast<int64_t>(sizeof(float))});
  }
  return views;
}

absl::Status LoadCheckpointTensors(const LoadedCheckpoint& checkpoint, Minimind& model,
                                   AdamW& optimizer) {
  RETURN_IF_ERROR(LoadFlat(
      model.parameters(), [&](const ParameterView& p) { return checkpoint.model->Find(p.name); },
      model.flat_parameters()));
  const std::vector<ParameterView> trained = TrainedParameters(model);
  RETURN_IF_ERROR(LoadFlat(
      trained,
      [&](const ParameterView& p) { return checkpoint.optimizer->Find(FirstMomentName(p.name)); },
      optimizer.first_moment()))
      << "first moments";
  RETURN_IF_ERROR(LoadFlat(
      trained,
      [&](const ParameterView& p) { return checkpoint.optimizer->Find(SecondMomentName(p.name)); },
      optimizer.second_moment()))
      << "second moments";
  model.ParametersChanged();
  return absl::OkStatus();
}

}  // namespace mindforge
