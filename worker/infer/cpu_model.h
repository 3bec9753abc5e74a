// A MiniMind's weights as the CPU kernels read them: packed in panels, fused where two
// products share an input. Immutable once loaded.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/hf_folder.h"
#include "worker/formats/model_config.h"
#include "worker/infer/huge_buffer.h"
#include "worker/kernels/infer_kernels.h"
#include "worker/kernels/rope.h"

namespace mindforge {

// A weight matrix [columns, k] in panels; y = x · Wᵀ.
struct PackedMatrix {
  HugeBuffer data;
  int64_t columns = 0;
  int64_t k = 0;
  int64_t element_bytes = 0;

  int64_t panels() const { return (columns + kPanelColumns - 1) / kPanelColumns; }
  const void* panel(int64_t index) const {
    return data.data() + PanelOffset(index, k) * element_bytes;
  }
  // Columns of panel `index` that exist.
  int64_t panel_columns(int64_t index) const {
    const int64_t left = columns - index * kPanelColumns;
    return left < kPanelColumns ? left : kPanelColumns;
  }
};

// One SwiGLU feed-forward.
struct CpuMlp {
  PackedMatrix gate;
  PackedMatrix up;
  PackedMatrix down;
};

struct CpuLayer {
  std::vector<float> input_norm;
  std::vector<float> post_norm;
  std::vector<float> query_norm;  // empty without qk_norm
  std::vector<float> key_norm;
  PackedMatrix qkv;  // queries, keys, values one below the other
  PackedMatrix out;
  CpuMlp mlp;  // of a dense model
  // Of a mixture of experts.
  PackedMatrix router;  // [experts, hidden], float32 whatever the dtype
  std::vector<CpuMlp> experts;
  std::vector<CpuMlp> shared_experts;
};

struct CpuModel {
  ModelConfig config;
  InferDtype dtype = InferDtype::kFloat32;
  HugeBuffer embedding;  // [vocab, hidden] in dtype
  std::vector<CpuLayer> layers;
  std::vector<float> final_norm;
  PackedMatrix head;
  RopeTables rope;

  int64_t ElementBytes() const { return dtype == InferDtype::kFloat32 ? 4 : 2; }
};

// Copies and converts; the folder may be closed afterwards. UNIMPLEMENTED: heads wider than the
// kernels take. INVALID_ARGUMENT: a tensor is missing.
absl::StatusOr<CpuModel> LoadCpuModel(const ModelFolder& folder, InferDtype dtype,
                                      int64_t positions);

}  // namespace mindforge
