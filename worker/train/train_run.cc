#include "worker/train/train_run.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error_details.h"
#include "common/status_macros.h"
#include "worker/dist/process_group.h"
#include "worker/dist/step_commit.h"
#include "worker/dist/step_timeout.h"
#include "worker/model/adamw.h"
#include "worker/model/minimind.h"
#include "worker/train/checkpoint_storage.h"
#include "worker/train/checkpoint_writer.h"
#include "worker/train/device_setup.h"
#include "worker/train/failure.h"
#include "worker/train/flops.h"
#include "worker/train/job_setup.h"
#include "worker/train/lap.h"
#include "worker/train/microbatch_loader.h"
#include "worker/train/rollback.h"
#include "worker/train/starting_point.h"
#include "worker/train/step_report.h"
#include "worker/train/step_runner.h"
#include "worker/train/validation.h"

namespace mindforge {
namespace {

enum Tag : uint32_t { kVoteTag = 1, kEndTag = 2, kNewestTag = 4 };

// At most so often a rank says where it is; every change of phase is said at once.
constexpr absl::Duration kStateInterval = absl::Milliseconds(500);

ComputeDtype ComputeOf(TrainDtype dtype) {
  switch (dtype) {
    case TrainDtype::kFloat32:
      return ComputeDtype::kFloat32;
    case TrainDtype::kBfloat16:
      return ComputeDtype::kBfloat16;
    case TrainDtype::kFloat16:
      return ComputeDtype::kFloat16;
  }
  return ComputeDtype::kFloat32;
}

}  // namespace

class TrainRun::Impl {
 public:
  Impl(TrainOptions options, const Clock& clock, TrainControl& control, ProgressSink& sink)
      : options_(std::move(options)), clock_(clock), control_(control), sink_(sink) {}

  absl::StatusOr<TrainOutcome> Run() {
    absl::StatusOr<TrainOutcome> outcome = TryRun();
    // A checkpoint under way when the group was lost is worth its second: the next generation goes
    // on from it.
    if (!outcome.ok() && writer_ != nullptr) writer_->Finish().IgnoreError();  // it has logged
    return outcome;
  }

 private:
  absl::StatusOr<TrainOutcome> TryRun() {
    try {
      RETURN_IF_ERROR(WarmUp());
      RETURN_IF_ERROR(JoinGroup());
      RETURN_IF_ERROR(CheckSharedStorage(options_, storage_marker_, *group_));
      ASSIGN_OR_RETURN(const StartingPoint start,
                       RestoreOrInitialize(options_, options_.resume_points, setup_, *model_,
                                           *optimizer_, *group_, sink_));
      return TrainFrom(start);
    } catch (const std::exception& error) {
      return StatusOfException(error, "training");
    }
  }

  absl::Status WarmUp();
  absl::Status JoinGroup();
  absl::StatusOr<TrainOutcome> TrainFrom(const StartingPoint& start);
  absl::Status RollBack(int64_t step, const StepResult& result);
  absl::StatusOr<StepDecision> VoteOnStep();
  absl::StatusOr<TrainOutcome> End(TrainOutcome outcome);

  bool CheckpointDue(int64_t step, bool stop) const;
  absl::Status TakeCheckpoint(int64_t step, bool final, StepResult* result);
  CheckpointState StateAt(int64_t step) const;
  void Report(int64_t step, const StepResult& result, const StepDecision& decision);
  // `detail`: what a long wait is for, so that nobody takes it for a hang.
  void ReportState(TrainPhase phase, bool always = true, const std::string& detail = "");
  absl::Status NotFinite(int64_t step, const StepResult& result);

  const TrainOptions options_;
  const Clock& clock_;
  TrainControl& control_;
  ProgressSink& sink_;

  // In the order in which they are made; each uses those before it.
  JobSetup setup_;
  std::string storage_marker_;  // rank 0 alone
  std::optional<c10::Device> device_;
  std::unique_ptr<Minimind> model_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<MicrobatchLoader> loader_;
  std::unique_ptr<ProcessGroup> group_;
  std::unique_ptr<StepRunner> runner_;
  std::unique_ptr<CheckpointWriter> writer_;  // rank 0 alone
  std::optional<StepCommit> commit_;

  double last_loss_ = 0;  // of the last step that was applied
  StepTimeout timeout_;
  bool after_checkpoint_ = false;  // rank 0 may stall in the step after one
  int64_t resumed_from_ = -1;
  int64_t resumed_checkpoint_ = -1;  // the same, where it was a checkpoint of this job
  double flops_per_token_ = 0;
  int64_t activity_ = 0;  // microbatches so far
  absl::Duration last_state_ = -absl::InfiniteDuration();
};

absl::Status TrainRun::Impl::WarmUp() {
  sink_.OnState({.detail = "opening the data"});
  ASSIGN_OR_RETURN(device_, SetUpDevice(options_.device));
  ASSIGN_OR_RETURN(setup_, SetUpJob(options_, sink_));
  if (options_.rank == 0) {
    ASSIGN_OR_RETURN(storage_marker_, OpenCheckpointStorage(options_));
    RemoveCheckpointLeftovers(options_.checkpoint_dir).status().IgnoreError();  // tidiness only
  }
  ReportState(TrainPhase::kWarmingUp);
  const MinimindOptions model{
      .compute = ComputeOf(options_.recipe.dtype),
      .attention = setup_.model.flash_attention ? AttentionPath::kFused : AttentionPath::kPlain,
      .lora_rank = options_.recipe.lora_rank};
  auto made = Minimind::Create(setup_.model, *device_, model);
  if (!made.ok()) return BlameField(made.status(), "model");
  model_ = *std::move(made);
  optimizer_ = std::make_unique<AdamW>(model_->trained_count(), *device_,
                                       AdamWOptions{.weight_decay = options_.recipe.weight_decay,
                                                    .clip_norm = options_.recipe.grad_clip});
  loader_ = std::make_unique<MicrobatchLoader>(*setup_.dataset, *setup_.split, *setup_.plan,
                                               options_.recipe.microbatch_size, [this] {
                                                 ++activity_;
                                                 ReportState(TrainPhase::kTraining, false);
                                               });
  flops_per_token_ = FlopsPerToken(setup_.model, setup_.dataset->row_length());
  return absl::OkStatus();
}

absl::Status TrainRun::Impl::JoinGroup() {
  ReportState(TrainPhase::kJoining);
  ProcessGroupOptions group{.rank = options_.rank,
                            .world_size = options_.world_size,
                            .generation = options_.generation,
                            .store_fd = options_.store_fd,
                            .advertise_host = options_.advertise_host,
                            .cuda_device = options_.device.cuda_index,
                            .arrival_timeout = options_.arrival_timeout,
                            .join_timeout = options_.join_timeout};
  if (options_.rank != 0) {
    ASSIGN_OR_RETURN(const HostPort store, control_.WaitForRendezvous(options_.arrival_timeout));
    group.store_host = store.host;
    group.store_port = store.port;
  }
  ASSIGN_OR_RETURN(group_, ProcessGroup::Join(group));
  runner_ = std::make_unique<StepRunner>(TrainParts{.recipe = options_.recipe,
                                                    .setup = setup_,
                                                    .model = *model_,
                                                    .optimizer = *optimizer_,
                                                    .loader = *loader_,
                                                    .group = *group_,
                                                    .clock = clock_});
  return absl::OkStatus();
}

absl::StatusOr<TrainOutcome> TrainRun::Impl::TrainFrom(const StartingPoint& start) {
  resumed_from_ = start.step;
  if (start.of_checkpoint) resumed_checkpoint_ = start.step;
  last_loss_ = start.loss;
  runner_->guard().Resume(start.counters);
  commit_.emplace(options_.rank, options_.world_size, start.step, setup_.agreement);
  if (options_.rank == 0) {
    writer_ = std::make_unique<CheckpointWriter>(
        CheckpointWriterOptions{
            .dir = options_.checkpoint_dir,
            .tokenizer = setup_.tokenizer,
            .prompt_style = options_.data.conversations ? kChatStyle : kCompletionStyle},
        *model_, *optimizer_, clock_, sink_);
  }
  ReportState(TrainPhase::kTraining);
  if (options_.rank == 0) {
    sink_.OnLog(
        LogSeverity::kINFO,
        absl::StrCat("training ", model_->trained_count(), " parameters with ", options_.world_size,
                     options_.world_size == 1 ? " rank" : " ranks", ", steps ", start.step + 1,
                     " to ", setup_.total_steps, ", ", setup_.split->training_rows(),
                     " sequences of ", setup_.dataset->row_length(), " tokens an epoch, ",
                     setup_.split->held_out_rows(), " held out"));
  }
  // The vote before the first step: all are at the same place, train the same, and may have been
  // told to stop already.
  ASSIGN_OR_RETURN(StepDecision decision, VoteOnStep());
  for (int64_t step = start.step + 1; step <= setup_.total_steps && !decision.stop; ++step) {
    Lap whole(clock_);
    ASSIGN_OR_RETURN(StepResult result,
                     runner_->Run(step, after_checkpoint_ ? StepTimeout::kCeiling : timeout_.Get(),
                                  writer_.get()));
    if (result.verdict == StepVerdict::kApplied) last_loss_ = result.loss;
    if (result.verdict == StepVerdict::kStop) return NotFinite(step, result);
    if (result.verdict == StepVerdict::kRollBack) RETURN_IF_ERROR(RollBack(step, result));
    commit_->Applied(step, result.tokens, result.sequences);
    Lap vote(clock_);
    ASSIGN_OR_RETURN(decision, VoteOnStep());
    result.timings.vote = vote();
    const bool last = step == setup_.total_steps;
    after_checkpoint_ = CheckpointDue(step, decision.stop);
    if (after_checkpoint_) RETURN_IF_ERROR(TakeCheckpoint(step, last, &result));
    result.timings.whole = whole();
    timeout_.Measured(result.timings.whole);
    Report(step, result, decision);
  }
  const bool finished = commit_->applied_step() >= setup_.total_steps;
  return End(finished ? TrainOutcome::kFinished : TrainOutcome::kStopped);
}

// The steps since the checkpoint are left out: their data is consumed and the schedule goes on.
absl::Status TrainRun::Impl::RollBack(int64_t step, const StepResult& result) {
  std::vector<CheckpointFolder> points;
  if (writer_ != nullptr) {
    writer_->Finish().IgnoreError();  // it has logged
    auto found = RollbackPoints(options_.checkpoint_dir, step, options_.checkpoint_every);
    if (!found.ok()) {
      return WorkerUnfit(absl::StrCat("checkpoint.dir: ", std::string(found.status().message())));
    }
    points = *std::move(found);
  }
  ASSIGN_OR_RETURN(const StartingPoint start, RestoreOrInitialize(options_, points, setup_, *model_,
                                                                  *optimizer_, *group_, sink_));
  if (!runner_->guard().RolledBack(start.counters, start.step, step)) {
    return NotFinite(step, result);
  }
  last_loss_ = start.loss;
  if (options_.rank == 0) {
    sink_.OnLog(LogSeverity::kWARNING,
                absl::StrCat(NotFiniteInWords(step, result, options_.recipe), ": rolled back to ",
                             start.of_checkpoint ? absl::StrCat("step ", start.step) : "the start",
                             ", steps ", start.step + 1, " to ", step, " are left out (rollback ",
                             runner_->guard().counters().rollbacks_in_a_row, " of ",
                             StepGuard::kMaxRollbacks, " to this checkpoint)"));
  }
  return absl::OkStatus();
}

absl::StatusOr<StepDecision> TrainRun::Impl::VoteOnStep() {
  commit_->HoldStop(control_.StopSequence());
  const Vote mine = commit_->MakeVote();
  std::vector<Vote> votes(static_cast<size_t>(options_.world_size));
  RETURN_IF_ERROR(group_->AllGather(&mine, votes.data(), sizeof(Vote), kVoteTag, timeout_.Get()));
  return commit_->Complete(votes);
}

bool TrainRun::Impl::CheckpointDue(int64_t step, bool stop) const {
  return stop || step == setup_.total_steps ||
         (options_.checkpoint_every > 0 && step % options_.checkpoint_every == 0);
}

absl::Status TrainRun::Impl::TakeCheckpoint(int64_t step, bool final, StepResult* result) {
  if (setup_.split->held_out_rows() > 0) {
    Lap lap(clock_);
    ASSIGN_OR_RETURN(result->validation_loss, ValidationLoss(*model_, *loader_, *group_));
    result->timings.validation = lap();
  }
  if (writer_ == nullptr) return absl::OkStatus();
  CheckpointState state = StateAt(step);
  state.validation_loss = result->validation_loss;
  Synchronize(*device_);
  if (writer_->Busy()) {
    ReportState(TrainPhase::kTraining, true, "waiting for the disk to take the checkpoint before");
  }
  result->timings.stall += absl::ToDoubleSeconds(writer_->Start(std::move(state), final));
  return absl::OkStatus();
}

CheckpointState TrainRun::Impl::StateAt(int64_t step) const {
  const StepPosition next = setup_.plan->PositionOf(step + 1);
  CheckpointState state{.job_id = options_.job_id,
                        .step = step,
                        .generation = options_.generation,
                        .epoch = next.epoch,
                        .sequences_consumed = setup_.plan->SequencesConsumed(next.step_in_epoch),
                        .seed = options_.recipe.seed,
                        .config = setup_.settings,
                        .dataset_digest = setup_.dataset->digest(),
                        .device_kind = setup_.numerics,
                        .world_size_history = options_.world_size_history,
                        .numerics_history = options_.numerics_history,
                        .loss = last_loss_,
                        .counters = runner_->guard().counters()};
  if (state.world_size_history.empty() ||
      state.world_size_history.back().world_size != options_.world_size) {
    state.world_size_history.push_back(
        {.first_step = resumed_from_ + 1, .world_size = options_.world_size});
  }
  if (state.numerics_history.empty() || state.numerics_history.back().name != setup_.numerics) {
    state.numerics_history.push_back({.first_step = resumed_from_ + 1, .name = setup_.numerics});
  }
  return state;
}

// The ranks leave together, after rank 0's last checkpoint is durable: until then one of them that
// is lost makes the job go on elsewhere instead of half ended.
absl::StatusOr<TrainOutcome> TrainRun::Impl::End(TrainOutcome outcome) {
  if (writer_ != nullptr) {
    ReportState(TrainPhase::kTraining, true, "writing the last checkpoint");
    RETURN_IF_ERROR(writer_->Finish()) << "the last checkpoint";
  }
  char mine = 1;
  std::string all(static_cast<size_t>(options_.world_size), '\0');
  RETURN_IF_ERROR(group_->AllGather(&mine, all.data(), 1, kEndTag, StepTimeout::kCeiling));
  ReportState(outcome == TrainOutcome::kFinished ? TrainPhase::kFinished : TrainPhase::kStopped);
  return outcome;
}

void TrainRun::Impl::Report(int64_t step, const StepResult& result, const StepDecision& decision) {
  ReportState(TrainPhase::kTraining, /*always=*/false);
  if (options_.rank != 0) return;
  const int64_t steps_per_epoch = setup_.plan->StepsPerEpoch();
  StepRecord record = RecordOf(step, result, decision.tokens, decision.sequences_by_rank);
  record.total_steps = setup_.total_steps;
  record.epoch = static_cast<double>(step) / static_cast<double>(steps_per_epoch);
  record.finished_at = clock_.Now();
  record.device_memory_bytes = DeviceMemoryBytes(*device_);
  record.skipped_steps = runner_->guard().counters().skipped_steps;
  const double peak =
      PeakFlops(options_.device.model, options_.recipe.dtype != TrainDtype::kFloat32);
  if (peak > 0) {
    record.mfu = record.tokens_per_second * flops_per_token_ / (peak * options_.world_size);
  }
  sink_.OnStep(record);
  const StepPosition position = setup_.plan->PositionOf(step);
  if (options_.log_every_steps > 0 &&
      (step % options_.log_every_steps == 0 || step == setup_.total_steps)) {
    const int64_t left =
        std::min(steps_per_epoch - position.step_in_epoch - 1, setup_.total_steps - step);
    sink_.OnLog(LogSeverity::kINFO,
                ProgressLine(record, position, options_.recipe.epochs, steps_per_epoch,
                             absl::Seconds(record.step_seconds * static_cast<double>(left))));
  }
}

void TrainRun::Impl::ReportState(TrainPhase phase, bool always, const std::string& detail) {
  const absl::Duration now = clock_.MonotonicNow();
  if (!always && now - last_state_ < kStateInterval) return;
  last_state_ = now;
  sink_.OnState({.phase = phase,
                 .step = commit_.has_value() ? commit_->applied_step() : 0,
                 .total_steps = setup_.total_steps,
                 .resumed_from = resumed_from_,
                 .dataset_digest = setup_.dataset->digest(),
                 .detail = detail,
                 .skipped_lines = setup_.dataset->skipped_lines(),
                 .activity = activity_});
}

absl::Status TrainRun::Impl::NotFinite(int64_t step, const StepResult& result) {
  int64_t checkpoint = resumed_checkpoint_;
  if (writer_ != nullptr) {
    writer_->Finish().IgnoreError();  // it has logged
    checkpoint = std::max(checkpoint, writer_->written_step());
  }
  // Where it fails, the other ranks name an older one: no reason to say anything else.
  group_->BroadcastHost(&checkpoint, sizeof(checkpoint), kNewestTag, StepTimeout::kCeiling)
      .IgnoreError();
  return InvalidArgument(
      "training.learning_rate",
      WhyStopped(step, result, options_.recipe, runner_->guard().counters(), checkpoint));
}

TrainRun::TrainRun(TrainOptions options, const Clock& clock, TrainControl& control,
                   ProgressSink& sink)
    : impl_(std::make_unique<Impl>(std::move(options), clock, control, sink)) {}

TrainRun::~TrainRun() = default;

absl::StatusOr<TrainOutcome> TrainRun::Run() { return impl_->Run(); }

}  // namespace mindforge
