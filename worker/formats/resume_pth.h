// The reference's `…_resume.pth`: weights, AdamW's state by parameter number, gradient scaler and
// place in the run. It knows the reference's parameter order, not how a job goes on from it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/model_config.h"
#include "worker/formats/pth.h"
#include "worker/formats/safetensors.h"

namespace mindforge {

// AdamW's state of one parameter.
struct ResumeMoments {
  double step = 0;    // updates done
  TensorView first;   // exp_avg
  TensorView second;  // exp_avg_sq
};

// torch.amp.GradScaler's state.
struct ResumeScaler {
  double scale = 65536;
  double growth_factor = 2;
  double backoff_factor = 0.5;
  int64_t growth_interval = 2000;  // good steps before the scale grows
  int64_t growth_tracker = 0;      // good steps since
};

struct ResumePth {
  std::vector<TensorView> model;  // by name
  // By parameter number (see ReferenceParameterOrder); empty when no update was done yet.
  std::vector<ResumeMoments> optimizer;
  double learning_rate = 5e-4;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.01;
  int64_t epoch = 0;  // from 0
  int64_t step = 0;   // microbatches per rank done in that epoch
  int64_t world_size = 1;
  std::string tracker_id;               // `wandb_id`; empty: None
  std::optional<ResumeScaler> scaler;   // unset: the run used none
  std::shared_ptr<const PthFile> file;  // what views of a file that was read look into
};

// The reference's parameters in the order of their optimizer numbers, by name: embedding; per layer
// q, k, v, o, [q_norm, k_norm], input norm, post norm, then gate, down, up (MoE: of each expert,
// the router, of each shared expert; MiniMind-3's: the router, of each expert); final norm; the
// head where it is not tied.
std::vector<std::string> ReferenceParameterOrder(const ModelConfig& config);

// As PthFile::Open, and INVALID_ARGUMENT naming what is missing or of a wrong type.
absl::StatusOr<ResumePth> ReadResumePth(const std::string& path);

// Weights as `model_dtype`, moments as they are. On error the file may be left half written.
absl::StatusOr<FileDigest> WriteResumePth(const std::string& path, const ResumePth& resume,
                                          DType model_dtype);

}  // namespace mindforge
