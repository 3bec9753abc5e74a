#include "worker/formats/resume_export.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/status_macros.h"
#include "worker/formats/checkpoint.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

// A moment of a parameter, found under "exp_avg.<name>" or "exp_avg_sq.<name>".
absl::StatusOr<TensorView> Moment(const SafetensorsFile& optimizer, const char* kind,
                                  const std::string& name, const ModelFolder& folder) {
  const TensorView* const view = optimizer.Find(absl::StrCat(kind, ".", name));
  const TensorView* const weight = folder.Find(name);
  if (view != nullptr && weight != nullptr && view->shape == weight->shape) return *view;
  return absl::InvalidArgumentError(
      absl::StrCat(optimizer.path(), ": ", kind, ".", name, " is missing or of another shape"));
}

double NumberOf(const Json& settings, const char* name, double otherwise) {
  const Json value = settings.is_object() ? settings.value(name, Json()) : Json();
  return value.is_number() ? value.get<double>() : otherwise;
}

}  // namespace

absl::StatusOr<ResumeSource> ReadResumeSource(const ModelFolder& folder) {
  const std::string path = JoinPath(folder.path, "optimizer.safetensors");
  const absl::StatusOr<CheckpointState> state = ReadCheckpointState(folder.path);
  if (absl::IsNotFound(state.status()) || !PathExists(path)) {
    return absl::InvalidArgumentError(absl::StrCat(
        folder.path, " is no checkpoint: it has no optimizer's state; export without it"));
  }
  RETURN_IF_ERROR(state.status());
  ResumeSource source;
  ASSIGN_OR_RETURN(source.optimizer, SafetensorsFile::Open(path));
  ResumePth& resume = source.resume;
  for (const std::string& name : ReferenceParameterOrder(folder.config)) {
    ResumeMoments moments;
    moments.step = static_cast<double>(state->counters.updates);
    ASSIGN_OR_RETURN(moments.first, Moment(*source.optimizer, "exp_avg", name, folder));
    ASSIGN_OR_RETURN(moments.second, Moment(*source.optimizer, "exp_avg_sq", name, folder));
    resume.optimizer.push_back(std::move(moments));
  }
  resume.learning_rate = NumberOf(state->config, "learning_rate", resume.learning_rate);
  resume.weight_decay = NumberOf(state->config, "weight_decay", resume.weight_decay);
  if (!state->world_size_history.empty()) {
    resume.world_size = std::max<int64_t>(state->world_size_history.back().world_size, 1);
  }
  const auto microbatch = static_cast<int64_t>(NumberOf(state->config, "microbatch_size", 0));
  if (microbatch < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(folder.path, ": state.json does not say the job's microbatch_size"));
  }
  resume.epoch = state->epoch;
  const int64_t sequences_a_step = microbatch * resume.world_size;
  resume.step = state->sequences_consumed / sequences_a_step;
  if (state->sequences_consumed % sequences_a_step != 0) {
    source.notes.push_back(absl::StrCat(
        "the reference counts microbatches per rank: `step` ", resume.step, " at world_size ",
        resume.world_size, " stands for ", resume.step * sequences_a_step, " of the ",
        state->sequences_consumed, " sequences of the epoch that were trained on"));
  }
  if (!state->tracker_ids.empty()) resume.tracker_id = state->tracker_ids.begin()->second;
  if (state->counters.loss_scale > 0) {
    resume.scaler.emplace();
    resume.scaler->scale = state->counters.loss_scale;
    resume.scaler->growth_tracker = state->counters.good_steps;
  }
  return source;
}

}  // namespace mindforge
