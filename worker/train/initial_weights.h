// Where a job without a checkpoint of its own starts: the weights that training.init_from names,
// in whatever format, matched against the model name by name and reported. Of the reference's
// `_resume.pth` the optimizer, the loss scale and the place in the run are taken too. Rank 0 alone
// reads; starting_point.h gives the others what it found.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "worker/formats/checkpoint.h"
#include "worker/model/adamw.h"
#include "worker/model/minimind.h"
#include "worker/train/job_setup.h"
#include "worker/train/progress_sink.h"
#include "worker/train/train_options.h"

namespace mindforge {

struct InitialState {
  int64_t step = 0;  // optimizer steps of this job that count as done
  TrainingCounters counters;
  bool moments = false;  // the optimizer's moments were loaded, too
};

// Reads options.recipe.init_from: a model folder, a checkpoint's folder (verified first), or a
// .safetensors or .pth file. Adapters are what `model` holds before where the file has none; those
// of a folder are merged when the job trains none. INVALID_ARGUMENT (training.init_from) lists
// every tensor that is missing, unexpected or of a wrong shape, and every setting that differs, or
// tells that the folder's tokenizer is another; `model` is undefined then. WORKER_UNFIT
// (failure.h): the job has begun, and here it cannot be opened. What was used and what was left out
// goes to the log.
//
// A `_resume.pth` whose `step` microbatches a rank do not fill whole optimizer steps is taken up at
// the last whole one: the rest never reached its weights, so these microbatches are computed again.
absl::StatusOr<InitialState> LoadInitialState(const TrainOptions& options, const JobSetup& setup,
                                              Minimind& model, AdamW& optimizer,
                                              ProgressSink& sink);

}  // namespace mindforge
