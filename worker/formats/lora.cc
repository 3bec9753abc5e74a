#include "worker/formats/lora.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/dtype_convert.h"
#include "worker/formats/named_tensors.h"
#include "worker/formats/pickle.h"
#include "worker/formats/pth.h"
#include "worker/formats/tensor_names.h"

namespace mindforge {
namespace {

constexpr std::string_view kASuffix = ".lora.A.weight";
constexpr std::string_view kBSuffix = ".lora.B.weight";

struct Adapter {
  const TensorView* a = nullptr;  // [r, in]
  const TensorView* b = nullptr;  // [out, r]
};
using Adapters = std::map<std::string, Adapter>;  // by module

// False when it is none.
bool AddIfAdapter(const std::string& name, const TensorView& view, Adapters* adapters) {
  std::string module;
  if (!ParseLoraName(name, &module)) return false;
  Adapter& adapter = (*adapters)[module];
  (name.ends_with(kASuffix) ? adapter.a : adapter.b) = &view;
  return true;
}

// Empty when the adapter can be merged into `base`.
std::string Problem(const std::string& module, const Adapter& adapter, const TensorView* base) {
  if (adapter.a == nullptr) return absl::StrCat(LoraAName(module), " is missing");
  if (adapter.b == nullptr) return absl::StrCat(LoraBName(module), " is missing");
  if (base == nullptr) return absl::StrCat("the model has no ", module);
  const std::vector<int64_t>& a = adapter.a->shape;
  const std::vector<int64_t>& b = adapter.b->shape;
  if (!IsWeightDType(adapter.a->dtype) || !IsWeightDType(adapter.b->dtype)) {
    return absl::StrCat(module, " has adapters that are not F32, F16 or BF16");
  }
  if (base->shape.size() != 2 || a.size() != 2 || b.size() != 2 || a[0] != b[1] || a[0] < 1 ||
      b[0] != base->shape[0] || a[1] != base->shape[1]) {
    return absl::StrCat(module, " has A ", ShapeToString(a), " and B ", ShapeToString(b),
                        " for a weight of ", ShapeToString(base->shape));
  }
  return "";
}

absl::Status CheckAll(const Adapters& adapters, const ModelFolder& folder) {
  if (adapters.empty()) {
    return absl::InvalidArgumentError(
        "no LoRA adapters in it: their names end in .lora.A.weight and .lora.B.weight");
  }
  std::vector<std::string> problems;
  for (const auto& [module, adapter] : adapters) {
    std::string problem = Problem(module, adapter, folder.Find(module + ".weight"));
    if (!problem.empty()) problems.push_back(std::move(problem));
  }
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the adapters do not fit the model ", folder.path,
                                                 ": ", ListSome(problems, "; "),
                                                 ". Were they trained on another model?"));
}

// W + B·A, each element summed over r in order.
absl::StatusOr<std::vector<float>> Merged(const TensorView& base, const Adapter& adapter) {
  ASSIGN_OR_RETURN(std::vector<float> w, ToFloats(base));
  ASSIGN_OR_RETURN(const std::vector<float> a, ToFloats(*adapter.a));
  ASSIGN_OR_RETURN(const std::vector<float> b, ToFloats(*adapter.b));
  const auto rank = static_cast<size_t>(adapter.a->shape[0]);
  const auto in = static_cast<size_t>(base.shape[1]);
  const auto out = static_cast<size_t>(base.shape[0]);
  std::vector<float> row(in);
  for (size_t o = 0; o < out; ++o) {
    std::fill(row.begin(), row.end(), 0.0f);
    for (size_t r = 0; r < rank; ++r) {
      const float factor = b[o * rank + r];
      const float* const a_row = a.data() + r * in;
      for (size_t i = 0; i < in; ++i) row[i] += factor * a_row[i];
    }
    for (size_t i = 0; i < in; ++i) w[o * in + i] += row[i];
  }
  return w;
}

absl::Status Apply(const Adapters& adapters, ModelFolder* folder) {
  RETURN_IF_ERROR(CheckAll(adapters, *folder));
  for (const auto& [module, adapter] : adapters) {
    const std::string name = module + ".weight";
    const TensorView& base = *folder->Find(name);
    ASSIGN_OR_RETURN(std::vector<float> merged, Merged(base, adapter));
    folder->Replace(name, base.shape, std::move(merged));
  }
  return absl::OkStatus();
}

}  // namespace

std::string LoraAName(std::string_view module) {
  return absl::StrCat(std::string(module), std::string(kASuffix));
}
std::string LoraBName(std::string_view module) {
  return absl::StrCat(std::string(module), std::string(kBSuffix));
}

bool ParseLoraName(std::string_view name, std::string* module) {
  const std::string_view suffix = name.ends_with(kASuffix) ? kASuffix : kBSuffix;
  if (!name.ends_with(suffix)) return false;
  name.remove_suffix(suffix.size());
  *module = PlainName(name);
  return true;
}

absl::Status MergeLora(const std::string& path, ModelFolder* folder) {
  ASSIGN_OR_RETURN(const std::unique_ptr<NamedTensors> file, NamedTensors::Open(path));
  Adapters adapters;
  std::vector<std::string> others;
  for (const TensorView& view : file->tensors()) {
    if (!AddIfAdapter(view.name, view, &adapters)) others.push_back(ShownText(view.name));
  }
  if (!adapters.empty() && !others.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("LoRA file ", path, " holds ", others.size(),
                     " tensors that are no adapters and would be lost: ", ListSome(others, ", "),
                     "; save the adapters alone, or deploy the whole model"));
  }
  RETURN_IF_ERROR(Apply(adapters, folder)) << "LoRA file " << path;
  return absl::OkStatus();
}

absl::Status MergeLora(ModelFolder* folder) {
  if (folder->lora_rank == 0) return absl::OkStatus();  // what is there is not the model's
  Adapters adapters;
  for (const auto& [name, view] : folder->tensors) AddIfAdapter(name, *view, &adapters);
  RETURN_IF_ERROR(Apply(adapters, folder));
  std::string ignored;
  std::erase_if(folder->tensors,
                [&](const auto& entry) { return ParseLoraName(entry.first, &ignored); });
  folder->lora_rank = 0;
  return absl::OkStatus();
}

std::vector<TensorView> LoraTensors(const ModelFolder& folder) {
  std::vector<TensorView> adapters;
  if (folder.lora_rank == 0) return adapters;
  std::string module;
  for (const auto& [name, view] : folder.tensors) {
    if (ParseLoraName(name, &module)) adapters.push_back(*view);
  }
  std::sort(adapters.begin(), adapters.end(),
            [](const TensorView& a, const TensorView& b) { return a.name < b.name; });
  return adapters;
}

std::string LoraFileName(std::string_view name, int64_t hidden_size) {
  return absl::StrCat("lora/", std::string(name), "_", hidden_size, ".pth");
}

absl::StatusOr<FileDigest> WriteLora(const std::string& path,
                                     const std::vector<TensorView>& adapters, DType dtype) {
  if (adapters.empty()) return absl::InvalidArgumentError("the model has no LoRA adapters");
  std::string module;
  for (const TensorView& view : adapters) {
    if (!ParseLoraName(view.name, &module)) {
      return absl::InvalidArgumentError(absl::StrCat(view.name, " is no LoRA adapter"));
    }
  }
  if (path.ends_with(".pth")) return WriteStateDictPth(path, adapters, dtype);
  return WriteSafetensorsAs(path, adapters, dtype, {{"format", "pt"}});
}

}  // namespace mindforge
