#include "worker/train/starting_point.h"

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/error_details.h"
#include "common/net.h"
#include "common/status_macros.h"
#include "worker/dist/step_timeout.h"
#include "worker/formats/checkpoint.h"
#include "worker/formats/checkpoint_names.h"
#include "worker/train/failure.h"
#include "worker/train/initial_weights.h"
#include "worker/train/parameters_io.h"

namespace mindforge {
namespace {

enum Tag : uint32_t { kHeaderTag = 10, kWeightsTag, kFirstMomentTag, kSecondMomentTag };

// What rank 0 tells the others; travels as its bytes.
struct Header {
  int64_t step = 0;
  double loss = 0;
  TrainingCounters counters;
  int64_t of_checkpoint = 0;
  int64_t weights_follow = 0;
  int64_t moments_follow = 0;
};

// Nothing when the checkpoint is bad and was set aside, or when it is not there: then nothing is
// known of it, and it is not reported. Any other trouble is this worker's or its storage's.
absl::StatusOr<std::optional<LoadedCheckpoint>> TryLoad(const CheckpointFolder& folder,
                                                        bool* absent, ProgressSink& sink) {
  auto loaded = LoadCheckpoint(folder.path);
  if (loaded.ok()) return std::optional<LoadedCheckpoint>(*std::move(loaded));
  const absl::Status& status = loaded.status();
  const std::string detail(status.message());
  if (absl::IsNotFound(status) && WasQuarantined(folder.path)) {
    // By a trainer that ended before its report was heard.
    sink.OnCorruptCheckpoint(folder, "it read back wrong before and was set aside");
    return std::optional<LoadedCheckpoint>();
  }
  const bool bad = absl::IsDataLoss(status) || absl::IsInvalidArgument(status);
  if (!bad && !absl::IsNotFound(status)) {
    return WorkerUnfit(absl::StrCat("checkpoint.dir: ", folder.path, " cannot be read on ",
                                    HostName(), ": ", detail));
  }
  sink.OnLog(LogSeverity::kERROR,
             absl::StrCat("checkpoint of step ", folder.step,
                          bad ? " cannot be used: " : " is not to be seen here: ", detail,
                          "; the one before it is tried"));
  if (!bad) {
    *absent = true;
    return std::optional<LoadedCheckpoint>();
  }
  if (const auto moved = QuarantineCheckpoint(folder.path); !moved.ok()) {
    sink.OnLog(LogSeverity::kWARNING, absl::StrCat(folder.path, " could not be set aside: ",
                                                   std::string(moved.status().message())));
  }
  sink.OnCorruptCheckpoint(folder, detail);
  return std::optional<LoadedCheckpoint>();
}

// What differs of two settings' members: "eos_token_id 2, the job's files now give 1". Nothing
// where the checkpoint does not say it.
std::string Difference(const nlohmann::json& was, const nlohmann::json& is, const char* name) {
  const auto said = was.find(name);
  if (said == was.end() || *said == is.at(name)) return "";
  return absl::StrCat(name, " ", said->dump(), ", the job's files now give ", is.at(name).dump());
}

// OK when the data gives the rows that the checkpoint's steps were made of: the same files read
// with another tokenizer, or by a build that leaves out other lines, would go on with other rows,
// or with rows that were trained already.
absl::Status CheckRows(const CheckpointFolder& folder, const CheckpointState& state,
                       const JobSetup& setup) {
  const nlohmann::json& was = state.config;
  const nlohmann::json model = was.contains("model") ? was.at("model") : nlohmann::json();
  // Checkpoints of earlier builds tell of the rows by the number of steps alone.
  for (const std::string& difference :
       {Difference(was, setup.settings, was.contains("sequences") ? "sequences" : "total_steps"),
        Difference(was, setup.settings, "tokenizer"),
        Difference(model, setup.settings.at("model"), "pad_token_id"),
        Difference(model, setup.settings.at("model"), "eos_token_id")}) {
    if (difference.empty()) continue;
    return WorkerUnfit(absl::StrCat(
        "checkpoint ", folder.path, " was made with ", difference, " on ", HostName(),
        ": the tokenizer was changed, or this build reads lines that the earlier one did not (text "
        "that is not UTF-8, say); put the tokenizer back or run the earlier build, and the job "
        "goes on, or submit a new job with init_from"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Header>> LoadNewest(const std::vector<CheckpointFolder>& resume_points,
                                                 const JobSetup& setup, Minimind& model,
                                                 AdamW& optimizer, ProgressSink& sink) {
  bool absent = false;
  for (const CheckpointFolder& folder : resume_points) {
    ASSIGN_OR_RETURN(const auto checkpoint, TryLoad(folder, &absent, sink));
    if (!checkpoint.has_value()) continue;
    const CheckpointState& state = checkpoint->state;
    if (!state.dataset_digest.empty() && state.dataset_digest != setup.dataset->digest()) {
      return InvalidArgument(
          "data.path",
          absl::StrCat(
              "the dataset is another (digest ", setup.dataset->digest(),
              ") than the one that checkpoint ", folder.path, " was trained on (",
              state.dataset_digest,
              "), and a job trains on one dataset: submit a new one, which training.init_from "
              "lets begin with these weights"));
    }
    RETURN_IF_ERROR(CheckRows(folder, state, setup));
    if (const absl::Status status = LoadCheckpointTensors(*checkpoint, model, optimizer);
        !status.ok()) {
      return BlameField(Annotate(status, absl::StrCat("checkpoint ", folder.path)), "model");
    }
    sink.OnLog(LogSeverity::kINFO,
               absl::StrCat("going on from step ", state.step, " (", folder.path, ")"));
    return std::optional<Header>(Header{.step = state.step,
                                        .loss = state.loss,
                                        .counters = state.counters,
                                        .of_checkpoint = 1,
                                        .weights_follow = 1,
                                        .moments_follow = 1});
  }
  if (absent) {
    return WorkerUnfit(absl::StrCat(
        "checkpoint.dir: of the job's checkpoints none that is sound is to be seen on ", HostName(),
        "; mount their storage on this worker, and the job goes on"));
  }
  return std::optional<Header>();
}

// Rank 0's part: fills model and optimizer, says what the others must be sent.
absl::StatusOr<Header> Prepare(const TrainOptions& options,
                               const std::vector<CheckpointFolder>& resume_points,
                               const JobSetup& setup, Minimind& model, AdamW& optimizer,
                               ProgressSink& sink) {
  ASSIGN_OR_RETURN(const std::optional<Header> resumed,
                   LoadNewest(resume_points, setup, model, optimizer, sink));
  if (resumed.has_value()) return *resumed;
  if (!resume_points.empty()) {
    sink.OnLog(LogSeverity::kWARNING, "no checkpoint of this job can be used: it starts anew");
  }
  model.InitializeWeights(options.recipe.seed);
  if (!options.recipe.init_from.empty()) {
    ASSIGN_OR_RETURN(const InitialState state,
                     LoadInitialState(options, setup, model, optimizer, sink));
    return Header{.step = state.step,
                  .counters = state.counters,
                  .weights_follow = 1,
                  .moments_follow = state.moments};
  }
  return Header{};
}

absl::Status Share(const at::Tensor& flat, uint32_t tag, ProcessGroup& group) {
  return group.BroadcastDevice(flat.mutable_data_ptr(), static_cast<int64_t>(flat.nbytes()), tag,
                               StepTimeout::kCeiling);
}

}  // namespace

absl::StatusOr<StartingPoint> RestoreOrInitialize(
    const TrainOptions& options, const std::vector<CheckpointFolder>& resume_points,
    const JobSetup& setup, Minimind& model, AdamW& optimizer, ProcessGroup& group,
    ProgressSink& sink) {
  Header header;
  if (options.rank == 0) {
    ASSIGN_OR_RETURN(header, Prepare(options, resume_points, setup, model, optimizer, sink));
  }
  RETURN_IF_ERROR(group.BroadcastHost(&header, sizeof(header), kHeaderTag, StepTimeout::kCeiling));
  // A pure function of the seed: cheaper to compute than to send.
  if (options.rank != 0 && header.weights_follow == 0) {
    model.InitializeWeights(options.recipe.seed);
  }
  if (header.weights_follow != 0) {
    RETURN_IF_ERROR(Share(model.flat_parameters(), kWeightsTag, group));
    if (options.rank != 0) model.ParametersChanged();
  }
  if (header.moments_follow != 0) {
    RETURN_IF_ERROR(Share(optimizer.first_moment(), kFirstMomentTag, group));
    RETURN_IF_ERROR(Share(optimizer.second_moment(), kSecondMomentTag, group));
  } else {
    optimizer.first_moment().zero_();
    optimizer.second_moment().zero_();
  }
  return StartingPoint{.step = header.step,
                       .loss = header.loss,
                       .counters = header.counters,
                       .of_checkpoint = header.of_checkpoint != 0};
}

}  // namespace mindforge
