#include "worker/trainer_link.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/error_details.h"
#include "common/log_writer.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/utf8.h"
#include "worker/dist/process_group.h"

namespace mindforge {
namespace {

// An agent that takes no report for so long is as good as gone.
constexpr absl::Duration kSendTimeout = absl::Seconds(60);
constexpr size_t kMaxLogBytes = 16 << 10;

// Paths and libraries' words may be no UTF-8; a report with other bytes is not understood.
std::string Clean(std::string_view text) { return Truncate(SanitizeUtf8(text), kMaxLogBytes); }

void SetTime(absl::Time time, google::protobuf::Timestamp* out) {
  const int64_t nanos = absl::ToUnixNanos(time);
  out->set_seconds(nanos / 1'000'000'000);
  out->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
}

v1::TrainerPhase PhaseOf(TrainPhase phase) {
  switch (phase) {
    case TrainPhase::kWarmingUp:
      return v1::TRAINER_PHASE_WARMING_UP;
    case TrainPhase::kJoining:
      return v1::TRAINER_PHASE_JOINING;
    case TrainPhase::kTraining:
      return v1::TRAINER_PHASE_TRAINING;
    case TrainPhase::kFinished:
      return v1::TRAINER_PHASE_FINISHED;
    case TrainPhase::kStopped:
      return v1::TRAINER_PHASE_STOPPED;
  }
  return v1::TRAINER_PHASE_UNSPECIFIED;
}

void FillStatus(const TrainState& state, v1::TrainerStatus* status) {
  status->set_phase(PhaseOf(state.phase));
  status->set_step(state.step);
  status->set_dataset_digest(state.dataset_digest);
  status->set_total_steps(state.total_steps);
  status->set_detail(Clean(state.detail));
  status->set_resumed_from(state.resumed_from);
  status->set_skipped_lines(state.skipped_lines);
  status->set_activity(state.activity);
}

v1::LogLevel LevelOf(LogSeverity severity) {
  switch (severity) {
    case LogSeverity::kINFO:
      return v1::LOG_LEVEL_INFO;
    case LogSeverity::kWARNING:
      return v1::LOG_LEVEL_WARNING;
    case LogSeverity::kERROR:
      return v1::LOG_LEVEL_ERROR;
  }
  return v1::LOG_LEVEL_UNSPECIFIED;
}

}  // namespace

AgentLink::AgentLink(int fd, const Clock& clock) : clock_(clock), reader_(fd), writer_(fd) {}

AgentLink::~AgentLink() {
  if (thread_.joinable()) thread_.join();
}

absl::StatusOr<v1::StartTraining> AgentLink::ReadStart(absl::Duration timeout) {
  v1::TrainerOrder order;
  RETURN_IF_ERROR(reader_.ReadMessage(&order, timeout)) << "waiting for the agent's order";
  if (!order.has_start()) {
    return absl::UnavailableError("the agent's first order is not StartTraining");
  }
  generation_ = order.start().generation();
  rank_ = order.start().rank();
  world_size_ = order.start().world_size();
  return order.start();
}

void AgentLink::StartReading() {
  thread_ = std::thread([this] { Read(); });
}

void AgentLink::Read() {
  pthread_setname_np(pthread_self(), "agent-link");
  v1::TrainerOrder order;
  while (true) {
    const absl::Status status = reader_.ReadMessage(&order);
    if (!status.ok()) {
      MF_LOG(WARNING) << "the agent is gone, this trainer ends: " << status.message();
      FlushLog();
      _exit(kExitAgentGone);
    }
    Take(order);
  }
}

void AgentLink::Take(const v1::TrainerOrder& order) {
  MutexLock lock(mutex_);
  switch (order.order_case()) {
    case v1::TrainerOrder::kJoin:
      rendezvous_ = order.join().rendezvous();
      break;
    case v1::TrainerOrder::kStop:
      stop_sequence_ = std::max(stop_sequence_, order.stop().sequence());
      break;
    case v1::TrainerOrder::kStart:
    case v1::TrainerOrder::ORDER_NOT_SET:
      break;
  }
  changed_.SignalAll();
}

absl::StatusOr<HostPort> AgentLink::WaitForRendezvous(absl::Duration timeout) {
  MutexLock lock(mutex_);
  const bool known = changed_.WaitFor(mutex_, timeout, [this] {
    mutex_.AssertHeld();
    return !rendezvous_.empty();
  });
  if (known) return ParseHostPort(rendezvous_);
  return Error(absl::StatusCode::kUnavailable, kPeerLost,
               absl::StrCat("rank ", rank_, " was not told where rank 0's store listens within ",
                            absl::FormatDuration(timeout)));
}

int64_t AgentLink::StopSequence() const {
  MutexLock lock(mutex_);
  return stop_sequence_;
}

void AgentLink::Send(const v1::TrainerReport& report) {
  if (const absl::Status sent = writer_.WriteMessage(report, kSendTimeout); !sent.ok()) {
    MF_LOG(WARNING) << "the agent takes no reports, this trainer ends: " << sent.message();
    FlushLog();
    _exit(kExitAgentGone);
  }
}

void AgentLink::SendFailure(const v1::TrainerFailure& failure) {
  v1::TrainerReport report;
  *report.mutable_failure() = failure;
  Send(report);
  v1::TrainerReport status;
  {
    MutexLock lock(mutex_);
    FillStatus(state_, status.mutable_status());
  }
  status.mutable_status()->set_phase(v1::TRAINER_PHASE_FAILED);
  status.mutable_status()->set_detail(Truncate(failure.message(), kMaxLogBytes));
  Send(status);
}

void AgentLink::OnState(const TrainState& state) {
  v1::TrainerReport report;
  FillStatus(state, report.mutable_status());
  {
    MutexLock lock(mutex_);
    state_ = state;
  }
  Send(report);
}

void AgentLink::OnStep(const StepRecord& record) {
  v1::TrainerReport report;
  v1::ProgressRecord& out = *report.mutable_progress();
  out.set_step(record.step);
  out.set_total_steps(record.total_steps);
  out.set_epoch(record.epoch);
  out.set_generation(generation_);
  out.set_world_size(world_size_);
  out.set_loss(record.loss);
  out.set_learning_rate(record.learning_rate);
  out.set_gradient_norm(record.gradient_norm);
  out.set_tokens(record.tokens);
  out.set_tokens_per_second(record.tokens_per_second);
  out.set_step_seconds(record.step_seconds);
  for (const auto& [phase, seconds] : record.phase_seconds) {
    (*out.mutable_phase_seconds())[phase] = seconds;
  }
  SetTime(record.finished_at, out.mutable_finished_at());
  out.set_mfu(record.mfu);
  out.set_device_memory_bytes(record.device_memory_bytes);
  out.set_checkpoint_stall_seconds(record.checkpoint_stall_seconds);
  for (const int64_t sequences : record.sequences_by_rank) {
    out.add_sequences_by_rank(static_cast<int32_t>(sequences));
  }
  if (record.validation_loss) out.set_validation_loss(*record.validation_loss);
  if (record.loss_scale) out.set_loss_scale(*record.loss_scale);
  out.set_skipped_steps(record.skipped_steps);
  out.set_skipped(record.skipped);
  Send(report);
}

void AgentLink::OnLog(LogSeverity severity, std::string_view text) {
  v1::TrainerReport report;
  v1::LogLine& line = *report.mutable_log();
  SetTime(clock_.Now(), line.mutable_time());
  line.set_generation(generation_);
  line.set_rank(rank_);
  line.set_level(LevelOf(severity));
  line.set_text(Clean(text));
  Send(report);
}

void AgentLink::OnCheckpoint(const CheckpointReport& checkpoint) {
  v1::TrainerReport report;
  v1::CheckpointWritten& out = *report.mutable_checkpoint();
  out.set_step(checkpoint.folder.step);
  out.set_generation(checkpoint.folder.generation);
  out.set_path(checkpoint.folder.path);
  out.set_size_bytes(checkpoint.size_bytes);
  out.set_loss(checkpoint.loss);
  if (checkpoint.validation_loss) out.set_validation_loss(*checkpoint.validation_loss);
  out.set_manifest_digest(checkpoint.manifest_digest);
  out.set_write_seconds(checkpoint.write_seconds);
  out.set_final(checkpoint.final);
  Send(report);
}

void AgentLink::OnCheckpointFailed(int64_t step, std::string_view detail) {
  v1::TrainerReport report;
  report.mutable_checkpoint_failed()->set_step(step);
  report.mutable_checkpoint_failed()->set_detail(Clean(detail));
  Send(report);
}

void AgentLink::OnCorruptCheckpoint(const CheckpointFolder& folder, std::string_view detail) {
  v1::TrainerReport report;
  report.mutable_corrupt()->set_step(folder.step);
  report.mutable_corrupt()->set_generation(folder.generation);
  report.mutable_corrupt()->set_detail(Clean(detail));
  Send(report);
}

}  // namespace mindforge
