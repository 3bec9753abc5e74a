#include "worker/train/reference_resume.h"

#include <cmath>
#include <fstream>
#include <string_view>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/pth.h"
#include "worker/train/parameters_io.h"

namespace mindforge {
namespace {

// Without reading a whole file of another kind: a .pth is a ZIP archive.
bool IsArchive(const std::string& path) {
  char magic[4] = {};
  std::ifstream file(path, std::ios::binary);
  return file.read(magic, sizeof(magic)) && std::string_view(magic, 4) == "PK\x03\x04";
}

// The updates that every parameter has seen. INVALID_ARGUMENT: they differ.
absl::StatusOr<int64_t> UpdatesOf(const ResumePth& resume) {
  const double updates = resume.optimizer.front().step;
  for (const ResumeMoments& moments : resume.optimizer) {
    if (moments.step == updates) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("its parameters have seen different numbers of updates (", updates, " and ",
                     moments.step, "), which one AdamW over all cannot continue"));
  }
  if (!(updates >= 0) || updates != std::floor(updates) || updates > 1e15) {
    return absl::InvalidArgumentError(absl::StrCat("its optimizer's step is ", updates));
  }
  return static_cast<int64_t>(updates);
}

absl::Status LoadMoments(const ResumePth& resume, const Minimind& model, AdamW& optimizer) {
  const std::vector<std::string> order = ReferenceParameterOrder(model.config());
  if (order.size() != resume.optimizer.size()) {
    return absl::InvalidArgumentError(absl::StrCat("its optimizer has ", resume.optimizer.size(),
                                                   " parameters, the job's model ", order.size()));
  }
  std::unordered_map<std::string, const ResumeMoments*> by_name;
  for (size_t i = 0; i < order.size(); ++i) by_name[order[i]] = &resume.optimizer[i];
  RETURN_IF_ERROR(LoadFlat(
      model.parameters(), [&](const ParameterView& p) { return &by_name.at(p.name)->first; },
      optimizer.first_moment()))
      << "its first moments";
  RETURN_IF_ERROR(LoadFlat(
      model.parameters(), [&](const ParameterView& p) { return &by_name.at(p.name)->second; },
      optimizer.second_moment()))
      << "its second moments";
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::optional<ResumePth>> TryReadReferenceResume(const std::string& path) {
  if (!IsArchive(path)) return std::optional<ResumePth>();
  ASSIGN_OR_RETURN(const auto file, PthFile::Open(path));
  const PickleValue& root = file->root();
  if (root.Get("optimizer") == nullptr || root.Get("epoch") == nullptr) {
    return std::optional<ResumePth>();
  }
  ASSIGN_OR_RETURN(ResumePth resume, ReadResumePth(path));
  return std::optional<ResumePth>(std::move(resume));
}

absl::StatusOr<int64_t> StepOfReference(int64_t epoch, int64_t step, int64_t world_size,
                                        const EpochPlan& plan, int64_t accumulation_steps,
                                        int64_t total_steps, int64_t* left_over) {
  constexpr int64_t kMost = int64_t{1} << 30;
  if (epoch < 0 || step < 0 || world_size < 1 || epoch > kMost || step > kMost ||
      world_size > kMost) {
    return absl::InvalidArgumentError(
        absl::StrCat("it stands at epoch ", epoch, ", step ", step, " of ", world_size, " ranks"));
  }
  const int64_t microbatches = step * world_size;
  int64_t in_epoch = microbatches / accumulation_steps;
  *left_over = microbatches % accumulation_steps;
  // An epoch's last step may be a partial one.
  const int64_t last = plan.StepsPerEpoch() - 1;
  const int64_t whole_epoch = last * accumulation_steps + plan.MicrobatchesInStep(last);
  if (microbatches >= whole_epoch && microbatches - whole_epoch < world_size) {
    in_epoch = last + 1;
    *left_over = 0;
  }
  if (in_epoch > last + 1 || (in_epoch == last + 1 && *left_over > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("it stands at microbatch ", microbatches, " (step ", step, " of ", world_size,
                     " ranks) of an epoch, of which the job has ", whole_epoch,
                     ": give the data and microbatch_size that it was trained with"));
  }
  const int64_t done = epoch * plan.StepsPerEpoch() + in_epoch;
  if (done >= total_steps) {
    return absl::InvalidArgumentError(
        absl::StrCat("it stands at optimizer step ", done, ", the job ends at ", total_steps,
                     ": raise training.epochs or training.max_steps"));
  }
  return done;
}

absl::StatusOr<InitialState> ResumeReference(const ResumePth& resume, const TrainOptions& options,
                                             const JobSetup& setup, const Minimind& model,
                                             AdamW& optimizer, ProgressSink& sink) {
  const std::string& path = options.recipe.init_from;
  InitialState state;
  int64_t left_over = 0;
  ASSIGN_OR_RETURN(state.step, StepOfReference(resume.epoch, resume.step, resume.world_size,
                                               *setup.plan, options.recipe.accumulation_steps,
                                               setup.total_steps, &left_over));
  if (!resume.optimizer.empty()) {
    RETURN_IF_ERROR(LoadMoments(resume, model, optimizer));
    ASSIGN_OR_RETURN(state.counters.updates, UpdatesOf(resume));
    state.moments = true;
  }
  if (resume.scaler.has_value()) {
    state.counters.loss_scale = resume.scaler->scale;
    state.counters.good_steps = resume.scaler->growth_tracker;
  }
  const AdamWOptions ours;
  if (resume.beta1 != ours.beta1 || resume.beta2 != ours.beta2 || resume.epsilon != ours.epsilon) {
    sink.OnLog(LogSeverity::kWARNING,
               absl::StrCat(path, ": its AdamW had betas ", resume.beta1, " and ", resume.beta2,
                            ", epsilon ", resume.epsilon, "; it goes on with ", ours.beta1, ", ",
                            ours.beta2, " and ", ours.epsilon));
  }
  if (left_over > 0) {
    sink.OnLog(LogSeverity::kWARNING,
               absl::StrCat(path, ": ", left_over, " microbatches after optimizer step ",
                            state.step, " never reached its weights: they are computed again"));
  }
  sink.OnLog(LogSeverity::kINFO,
             absl::StrCat("going on from optimizer step ", state.step, " (epoch ", resume.epoch + 1,
                          ", ", resume.step, " microbatches on each of ", resume.world_size,
                          " ranks; ", state.counters.updates, " updates)"));
  return state;
}

}  // namespace mindforge
