// The feed-forward of a mixture of experts over one batch, as the threads of a team do it together.
// Rows are gathered by expert, so that an expert's weights are read once for all of them.
//
// A row's bits do not depend on the rows beside it (promise P9): routing is float32, each product
// sums over K in its fixed order, and a token's experts are added in ascending order, then the
// shared ones.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/model_config.h"
#include "worker/infer/cpu_model.h"
#include "worker/infer/huge_buffer.h"
#include "worker/infer/thread_team.h"
#include "worker/kernels/infer_kernels.h"

namespace mindforge {

// Buffers for one batch. Borrows the team, whose members share it.
class CpuMoe {
 public:
  // RESOURCE_EXHAUSTED: no memory for the buffers.
  static absl::StatusOr<std::unique_ptr<CpuMoe>> Create(const ModelConfig& config, InferDtype dtype,
                                                        InferIsa isa, int64_t max_tokens,
                                                        ThreadTeam& team);

  // residual[tokens, hidden] += moe(RMSNorm(residual)). Every member of the team calls it inside
  // Run and meets the others before and after.
  void Work(int64_t me, const CpuLayer& layer, int64_t tokens, float* residual);

 private:
  // One expert of one token.
  struct Choice {
    int64_t expert = 0;
    float weight = 0;
  };
  // One row of the gathered batch.
  struct Row {
    int64_t token = 0;
    float weight = 0;
  };

  CpuMoe(const ModelConfig& config, InferDtype dtype, InferIsa isa, ThreadTeam& team);
  absl::Status Allocate(int64_t max_tokens);

  // Of tokens begin … end-1.
  void Route(int64_t begin, int64_t end, const CpuLayer& layer, const float* residual);
  void Choose(float* scores, Choice* chosen) const;
  void Group(int64_t tokens);
  // Rows begin … end-1.
  void Gather(int64_t begin, int64_t end);
  // What member `me` does of it.
  void GateAndUp(int64_t me, const CpuLayer& layer, int64_t tokens);
  void Combine(int64_t me, const CpuLayer& layer, int64_t tokens, float* residual);

  void AddExpert(const PackedMatrix& down, int64_t panel, int64_t first_row, int64_t end_row,
                 float* residual) const;
  int64_t rows_of(int64_t expert) const { return first_row_[expert + 1] - first_row_[expert]; }
  void* Element(HugeBuffer& buffer, int64_t index) const {
    return buffer.data() + index * kernels_.element_bytes;
  }

  const ModelConfig config_;
  const InferKernels kernels_;
  const InferKernels wide_kernels_;  // float32, for routing
  const bool wide_is_normed_;        // the weights are float32 as well
  const int64_t hidden_;
  const int64_t experts_;
  const int64_t per_token_;
  const int64_t scores_stride_;
  // Strides of inputs to products: an even number of elements.
  const int64_t hidden_stride_;
  const int64_t inner_stride_;
  ThreadTeam& team_;

  HugeBuffer normed_;  // [token, hidden]
  HugeBuffer wide_;    // the same in float32; empty when wide_is_normed_
  std::vector<float> scores_;
  std::vector<Choice> chosen_;      // [token][per_token], likeliest first
  std::vector<Row> rows_;           // by expert, then by token
  std::vector<int64_t> first_row_;  // of each expert, and the end
  std::vector<int64_t> next_row_;
  HugeBuffer gathered_;  // [row, hidden]
  HugeBuffer inner_;     // [row, intermediate], then [shared expert][token, intermediate]
};

}  // namespace mindforge
