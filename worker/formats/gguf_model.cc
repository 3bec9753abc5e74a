#include "worker/formats/gguf_model.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/dtype_convert.h"
#include "worker/formats/gguf_config.h"
#include "worker/formats/gguf_names.h"
#include "worker/formats/gguf_tokenizer.h"
#include "worker/formats/tensor_names.h"
#include "worker/formats/tokenizer_files.h"

namespace mindforge {
namespace {

constexpr int64_t kQuantizationVersion = 2;

// llama.cpp's `llama` turns neighbouring pairs where we turn halves: row (p, i) of a head, p of the
// two halves, becomes row (i, p). The rows of `view` in that order, or back.
std::string ReorderRows(const TensorView& view, int64_t heads, bool to_gguf) {
  const int64_t rows = view.shape[0];
  const auto row_bytes = static_cast<size_t>(view.bytes / rows);
  const int64_t dim = rows / heads;
  const int64_t half = dim / 2;
  std::string bytes(static_cast<size_t>(view.bytes), '\0');
  const auto* const from = static_cast<const char*>(view.data);
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t p = 0; p < 2; ++p) {
      for (int64_t i = 0; i < half; ++i) {
        const int64_t ours = head * dim + p * half + i;
        const int64_t theirs = head * dim + 2 * i + p;
        const int64_t source = to_gguf ? ours : theirs;
        const int64_t target = to_gguf ? theirs : ours;
        std::memcpy(bytes.data() + target * row_bytes, from + source * row_bytes, row_bytes);
      }
    }
  }
  return bytes;
}

// How many heads' rows of `name` are reordered; 0: none.
int64_t ReorderedHeads(std::string_view name, const ModelConfig& config) {
  if (config.qk_norm) return 0;  // `qwen3` turns halves, as we do
  if (name.ends_with("self_attn.q_proj.weight")) return config.num_attention_heads;
  if (name.ends_with("self_attn.k_proj.weight")) return config.num_key_value_heads;
  return 0;
}

int64_t FileType(DType dtype) { return dtype == DType::kF32 ? 0 : dtype == DType::kF16 ? 1 : 32; }

// The matrices of all experts, one after the other.
absl::StatusOr<GgufTensor> Stack(const ModelFolder& folder, const ExpectedTensor& first,
                                 const std::string& name, DType dtype,
                                 std::deque<std::string>* copies) {
  const int64_t experts = folder.config.n_routed_experts;
  std::string& bytes = copies->emplace_back();
  for (int64_t e = 0; e < experts; ++e) {
    const TensorView& one = *folder.Find(ExpertName(name, e));
    ASSIGN_OR_RETURN(const std::vector<float> values, ToFloats(one));
    bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  }
  GgufTensor tensor{.dtype = dtype};
  tensor.view.name = name;
  tensor.view.shape = {experts, first.shape[0], first.shape[1]};
  tensor.view.data = bytes.data();
  tensor.view.bytes = static_cast<int64_t>(bytes.size());
  return tensor;
}

// As llama.cpp's converter: vectors and the router stay float32.
DType DTypeFor(const ExpectedTensor& tensor, DType dtype) {
  return tensor.shape.size() < 2 || tensor.name.ends_with("mlp.gate.weight") ? DType::kF32 : dtype;
}

absl::StatusOr<std::vector<GgufTensor>> TensorsFor(const ModelFolder& folder, DType dtype,
                                                   std::deque<std::string>* copies) {
  std::vector<GgufTensor> tensors;
  for (const ExpectedTensor& expected : ExpectedTensors(folder.config)) {
    std::string stack;
    int64_t expert = 0;
    if (SplitExpertName(expected.name, &stack, &expert)) {
      if (expert > 0) continue;
      ASSIGN_OR_RETURN(tensors.emplace_back(), Stack(folder, expected, stack, dtype, copies));
      continue;
    }
    GgufTensor tensor{*folder.Find(expected.name), DTypeFor(expected, dtype)};
    if (const int64_t heads = ReorderedHeads(expected.name, folder.config); heads > 0) {
      tensor.view.data =
          copies->emplace_back(ReorderRows(tensor.view, heads, /*to_gguf=*/true)).data();
    }
    tensor.view.name = GgufName(expected.name, /*to_gguf=*/true);
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

// False when `stored` is no stack of experts.
bool AddExperts(const TensorView& stored, std::vector<TensorView>* out) {
  if (stored.shape.size() != 3 || ExpertName(stored.name, 0).empty()) return false;
  for (int64_t e = 0; e < stored.shape[0]; ++e) {
    out->push_back(StackedMatrix(stored, e, 0, stored.shape[1], ExpertName(stored.name, e)));
  }
  return true;
}

}  // namespace

absl::StatusOr<FileDigest> WriteGgufModel(const std::string& path, const ModelFolder& folder,
                                          const std::string& model_name, DType dtype) {
  const ModelConfig& config = folder.config;
  RETURN_IF_ERROR(CheckGgufExport(config));
  if (folder.tokenizer_path.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        folder.path, " has no tokenizer.json, which a GGUF file must hold; copy it there first"));
  }
  const std::string arch = GgufArchitecture(config);
  GgufMetadata metadata;
  metadata.Text("general.architecture", arch);
  metadata.Text("general.type", "model");
  metadata.Text("general.name", model_name);
  metadata.Uint32("general.file_type", FileType(dtype));
  metadata.Uint32("general.quantization_version", kQuantizationVersion);
  AddGgufShape(config, arch, &metadata);
  ASSIGN_OR_RETURN(const TokenizerFiles tokenizer, ReadTokenizerFiles(folder.tokenizer_path));
  RETURN_IF_ERROR(AddGgufTokenizer(tokenizer.tokenizer, tokenizer.config, config,
                                   tokenizer.chat_template, &metadata));
  std::deque<std::string> copies;
  ASSIGN_OR_RETURN(const std::vector<GgufTensor> tensors, TensorsFor(folder, dtype, &copies));
  return WriteGguf(path, metadata, tensors);
}

absl::StatusOr<GgufModel> ReadGgufModel(const std::string& path) {
  GgufModel model;
  ASSIGN_OR_RETURN(model.file, GgufFile::Open(path));
  absl::StatusOr<ModelConfig> config = ConfigFromGguf(*model.file);
  RETURN_IF_ERROR(config.status()) << path;
  model.config = *std::move(config);
  for (const TensorView& stored : model.file->tensors()) {
    if (AddExperts(stored, &model.tensors)) continue;
    TensorView view = stored;
    view.name = GgufName(stored.name, /*to_gguf=*/false);
    if (view.name.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": tensor \"", stored.name, "\" has no place in a llama, qwen3 or qwen3moe model"));
    }
    const int64_t heads = ReorderedHeads(view.name, model.config);
    if (heads > 0 && view.shape.size() == 2 && view.shape[0] > 0) {
      if (view.shape[0] != heads * model.config.HeadDim()) {
        return absl::InvalidArgumentError(absl::StrCat(
            path, ": tensor \"", stored.name, "\" does not have the rows of ", heads, " heads"));
      }
      view.data = model.reordered.emplace_back(ReorderRows(view, heads, /*to_gguf=*/false)).data();
    }
    model.tensors.push_back(std::move(view));
  }
  absl::StatusOr<std::map<std::string, std::string>> tokenizer =
      TokenizerFromGguf(model.file->metadata());
  model.tokenizer_status = tokenizer.status();
  if (tokenizer.ok()) model.tokenizer = *std::move(tokenizer);
  return model;
}

}  // namespace mindforge
