// The ModelRunner of the CPU: our own kernels over packed weights, no library in its hot path. One
// forward is one call of the thread team; its stages meet at barriers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/model_config.h"
#include "worker/infer/cpu_model.h"
#include "worker/infer/cpu_moe.h"
#include "worker/infer/huge_buffer.h"
#include "worker/infer/model_runner.h"
#include "worker/infer/thread_team.h"
#include "worker/kernels/infer_kernels.h"

namespace mindforge {

struct CpuRunnerOptions {
  InferIsa isa = InferIsa::kScalar;
  int64_t slots = 1;
  int64_t max_context = 0;
  int64_t max_batch_tokens = 0;
  int64_t threads = 1;
};

class CpuRunner : public ModelRunner {
 public:
  // RESOURCE_EXHAUSTED: no memory for the slots.
  static absl::StatusOr<std::unique_ptr<CpuRunner>> Create(CpuModel model,
                                                           const CpuRunnerOptions& options);
  static int64_t KvBytes(const ModelConfig& config, InferDtype dtype, int64_t slots,
                         int64_t max_context);

  int64_t vocab_size() const override { return model_.config.vocab_size; }
  int64_t max_context() const override { return options_.max_context; }
  int64_t slots() const override { return options_.slots; }
  int64_t max_batch_tokens() const override { return options_.max_batch_tokens; }
  const std::string& numerics_id() const override { return numerics_id_; }
  absl::Status Forward(const StepBatch& batch, float* logits) override;

 private:
  struct Token {
    int32_t id = 0;
    int64_t slot = 0;
    int64_t position = 0;
  };

  CpuRunner(CpuModel model, const CpuRunnerOptions& options);
  absl::Status Allocate();
  HeadCache* Caches(int64_t slot, int64_t layer);
  void* Element(HugeBuffer& buffer, int64_t index) { return buffer.data() + index * element_; }

  // The stages of a forward as thread `me` does them; each writes only its share.
  void Work(int64_t me, float* logits);
  void Embed(int64_t me);
  void Norm(int64_t me, const std::vector<float>& weight);
  void Multiply(int64_t me, const PackedMatrix& matrix, HugeBuffer& x, int64_t x_stride, float* y,
                int64_t y_stride, bool accumulate);
  void Place(int64_t me, int64_t layer);
  void Attend(int64_t me, int64_t layer);
  void FeedForward(int64_t me, const CpuLayer& layer);
  void GateAndUp(int64_t me, const CpuMlp& mlp);
  void Head(int64_t me, float* logits);

  const CpuModel model_;
  const CpuRunnerOptions options_;
  const InferKernels kernels_;
  const std::string numerics_id_;
  const int64_t element_;  // bytes
  const int64_t hidden_;
  const int64_t heads_;
  const int64_t kv_heads_;
  const int64_t head_dim_;
  const int64_t qkv_columns_;
  // Strides of inputs to products: an even number of elements.
  const int64_t hidden_stride_;
  const int64_t attended_stride_;
  const int64_t inner_stride_;

  HugeBuffer keys_;
  HugeBuffer values_;
  std::vector<HeadCache> caches_;  // [slot][layer][kv_head]

  // The batch at hand, [token][…].
  std::vector<Token> tokens_;
  std::vector<int64_t> logits_tokens_;  // indices into tokens_ that need logits
  std::vector<float> residual_;
  std::vector<float> qkv_;
  HugeBuffer normed_;
  HugeBuffer attended_;
  HugeBuffer inner_;
  ThreadTeam team_;
  std::unique_ptr<CpuMoe> moe_;  // null: a dense model; uses the team
};

}  // namespace mindforge
