// What a run derives from its settings before any tensor exists: opened data, the model's full
// configuration, the number of steps, and a hash of all that ranks must agree on. Torch-free.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/data/dataset.h"
#include "worker/data/order.h"
#include "worker/train/progress_sink.h"
#include "worker/train/row_split.h"
#include "worker/train/train_options.h"

namespace mindforge {

struct JobSetup {
  std::unique_ptr<Dataset> dataset;
  std::map<std::string, std::string> tokenizer;  // its files' texts by name, for checkpoints
  std::optional<RowSplit> split;
  std::unique_ptr<EpochPlan> plan;
  ModelConfig model;  // vocab_size filled in
  int64_t total_steps = 0;
  nlohmann::json settings;  // for state.json
  std::string numerics;     // the name of this rank's arithmetic
  uint64_t agreement = 0;   // see Vote::agreement
};

// Opens the data (tokenizing it when nobody has), checks model and data against each other, and
// reports progress. INVALID_ARGUMENT names the job file's fields at fault. WORKER_UNFIT
// (failure.h): the job has begun, and this worker does not see the data it began with, or this
// build refuses some of it; or the data cannot be read, or the token cache written, for a reason
// that may pass.
absl::StatusOr<JobSetup> SetUpJob(const TrainOptions& options, ProgressSink& sink);

}  // namespace mindforge
