// The reference's `_resume.pth` as a starting point: its moments by parameter number, its place as
// an optimizer step of this job.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "worker/formats/resume_pth.h"
#include "worker/train/initial_weights.h"

namespace mindforge {

// The file at `path` when it is one; none when it is another kind of file. Errors as
// ReadResumePth.
absl::StatusOr<std::optional<ResumePth>> TryReadReferenceResume(const std::string& path);

// Which optimizer step of the job is done when the reference had done `step` microbatches on each
// of `world_size` ranks in epoch `epoch`: the microbatches count together, since the job's global
// batch does not depend on its world size. Rounds down, `*left_over` microbatches of the next step
// were computed for nothing. INVALID_ARGUMENT: the place is beyond the job's data or its end.
absl::StatusOr<int64_t> StepOfReference(int64_t epoch, int64_t step, int64_t world_size,
                                        const EpochPlan& plan, int64_t accumulation_steps,
                                        int64_t total_steps, int64_t* left_over);

// Loads the moments and gives the place. INVALID_ARGUMENT: they do not fit model or job.
absl::StatusOr<InitialState> ResumeReference(const ResumePth& resume, const TrainOptions& options,
                                             const JobSetup& setup, const Minimind& model,
                                             AdamW& optimizer, ProgressSink& sink);

}  // namespace mindforge
