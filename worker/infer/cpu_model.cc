#include "worker/infer/cpu_model.h"

#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

float FloatFromHalf(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1f;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa · 2^-24, exact in float32
    const float value = static_cast<float>(mantissa) * 0x1.0p-24f;
    return sign != 0 ? -value : value;
  }
  const uint32_t bits = exponent == 31 ? sign | 0x7f800000u | mantissa << 13
                                       : sign | (exponent + 112) << 23 | mantissa << 13;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

float ElementAt(const TensorView& view, int64_t index) {
  if (view.dtype == DType::kF32) {
    float value;
    std::memcpy(&value, static_cast<const char*>(view.data) + index * 4, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(view.data) + index * 2, sizeof(bits));
  return view.dtype == DType::kBF16 ? FloatFromBfloat16(bits) : FloatFromHalf(bits);
}

// Finds tensors by name and turns them into what the kernels read.
class Loader {
 public:
  Loader(const ModelFolder& folder, InferDtype dtype) : folder_(folder), dtype_(dtype) {}

  absl::StatusOr<std::vector<float>> Vector(const std::string& name) const {
    ASSIGN_OR_RETURN(const TensorView* view, Find(name));
    std::vector<float> values(view->elements());
    for (size_t i = 0; i < values.size(); ++i) values[i] = ElementAt(*view, i);
    return values;
  }

  // Row-major, in the dtype.
  absl::StatusOr<HugeBuffer> Rows(const std::string& name) const {
    ASSIGN_OR_RETURN(const TensorView* view, Find(name));
    ASSIGN_OR_RETURN(HugeBuffer rows, HugeBuffer::Allocate(view->elements() * ElementBytes()));
    Convert(*view, rows.data());
    return rows;
  }

  // The matrices one below the other, all of the same k.
  absl::StatusOr<PackedMatrix> Pack(const std::vector<std::string>& names) const {
    PackedMatrix matrix{.element_bytes = ElementBytes()};
    std::vector<const TensorView*> views;
    for (const std::string& name : names) {
      ASSIGN_OR_RETURN(const TensorView* view, Find(name));
      MF_CHECK_EQ(view->shape.size(), 2u) << name << ": opening the folder checks shapes";
      matrix.columns += view->shape[0];
      matrix.k = view->shape[1];
      views.push_back(view);
    }
    ASSIGN_OR_RETURN(matrix.data, HugeBuffer::Allocate(PackedElements(matrix.columns, matrix.k) *
                                                       matrix.element_bytes));
    int64_t column = 0;
    for (const TensorView* view : views) {
      std::vector<std::byte> rows(view->elements() * ElementBytes());
      Convert(*view, rows.data());
      PackColumns(dtype_, rows.data(), view->shape[0], matrix.k, column, matrix.data.data());
      column += view->shape[0];
    }
    return matrix;
  }

 private:
  int64_t ElementBytes() const { return dtype_ == InferDtype::kFloat32 ? 4 : 2; }

  absl::StatusOr<const TensorView*> Find(const std::string& name) const {
    const TensorView* view = folder_.Find(name);
    if (view != nullptr) return view;
    return absl::InvalidArgumentError(absl::StrCat(folder_.path, " has no tensor ", name));
  }

  void Convert(const TensorView& view, std::byte* to) const {
    const int64_t count = view.elements();
    const bool same = view.dtype == (dtype_ == InferDtype::kFloat32 ? DType::kF32 : DType::kBF16);
    if (same) {
      std::memcpy(to, view.data, count * ElementBytes());
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      const float value = ElementAt(view, i);
      if (dtype_ == InferDtype::kFloat32) {
        std::memcpy(to + i * 4, &value, sizeof(value));
      } else {
        const uint16_t bits = Bfloat16FromFloat(value);
        std::memcpy(to + i * 2, &bits, sizeof(bits));
      }
    }
  }

  const ModelFolder& folder_;
  const InferDtype dtype_;
};

absl::StatusOr<CpuMlp> LoadMlp(const Loader& loader, const std::string& prefix) {
  CpuMlp mlp;
  ASSIGN_OR_RETURN(mlp.gate, loader.Pack({prefix + "gate_proj.weight"}));
  ASSIGN_OR_RETURN(mlp.up, loader.Pack({prefix + "up_proj.weight"}));
  ASSIGN_OR_RETURN(mlp.down, loader.Pack({prefix + "down_proj.weight"}));
  return mlp;
}

absl::StatusOr<std::vector<CpuMlp>> LoadMlps(const Loader& loader, const std::string& prefix,
                                             int64_t count) {
  std::vector<CpuMlp> mlps;
  for (int64_t e = 0; e < count; ++e) {
    ASSIGN_OR_RETURN(CpuMlp mlp, LoadMlp(loader, absl::StrCat(prefix, e, ".")));
    mlps.push_back(std::move(mlp));
  }
  return mlps;
}

// `wide` loads float32 whatever the model's dtype.
absl::StatusOr<CpuLayer> LoadLayer(const Loader& loader, const Loader& wide,
                                   const ModelConfig& config, int64_t index) {
  const std::string prefix = absl::StrCat("model.layers.", index, ".");
  const std::string attention = prefix + "self_attn.";
  const std::string mlp = prefix + "mlp.";
  CpuLayer layer;
  ASSIGN_OR_RETURN(layer.input_norm, loader.Vector(prefix + "input_layernorm.weight"));
  ASSIGN_OR_RETURN(layer.post_norm, loader.Vector(prefix + "post_attention_layernorm.weight"));
  if (config.qk_norm) {
    ASSIGN_OR_RETURN(layer.query_norm, loader.Vector(attention + "q_norm.weight"));
    ASSIGN_OR_RETURN(layer.key_norm, loader.Vector(attention + "k_norm.weight"));
  }
  ASSIGN_OR_RETURN(layer.qkv, loader.Pack({attention + "q_proj.weight", attention + "k_proj.weight",
                                           attention + "v_proj.weight"}));
  ASSIGN_OR_RETURN(layer.out, loader.Pack({attention + "o_proj.weight"}));
  if (!config.use_moe) {
    ASSIGN_OR_RETURN(layer.mlp, LoadMlp(loader, mlp));
    return layer;
  }
  ASSIGN_OR_RETURN(layer.router, wide.Pack({mlp + "gate.weight"}));
  ASSIGN_OR_RETURN(layer.experts, LoadMlps(loader, mlp + "experts.", config.n_routed_experts));
  ASSIGN_OR_RETURN(layer.shared_experts,
                   LoadMlps(loader, mlp + "shared_experts.", config.n_shared_experts));
  return layer;
}

}  // namespace

absl::StatusOr<CpuModel> LoadCpuModel(const ModelFolder& folder, InferDtype dtype,
                                      int64_t positions) {
  const ModelConfig& config = folder.config;
  // Wider heads would not fit the attention kernel's stack.
  if (config.HeadDim() > kMaxHeadDim) {
    return absl::UnimplementedError(absl::StrCat(folder.path, ": head_dim is ", config.HeadDim(),
                                                 "; the CPU kernels take at most ", kMaxHeadDim,
                                                 "; serve this model on a CUDA device"));
  }
  const Loader loader(folder, dtype);
  const Loader wide(folder, InferDtype::kFloat32);
  CpuModel model{.config = config, .dtype = dtype};
  ASSIGN_OR_RETURN(model.embedding, loader.Rows("model.embed_tokens.weight"));
  ASSIGN_OR_RETURN(model.head, loader.Pack({"lm_head.weight"}));
  ASSIGN_OR_RETURN(model.final_norm, loader.Vector("model.norm.weight"));
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    ASSIGN_OR_RETURN(CpuLayer layer, LoadLayer(loader, wide, config, i));
    model.layers.push_back(std::move(layer));
  }
  model.rope = MakeRopeTables(config, positions);
  return model;
}

}  // namespace mindforge
