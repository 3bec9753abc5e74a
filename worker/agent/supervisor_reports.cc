// The half of the supervisor that hears the trainers.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/strings.h"
#include "common/utf8.h"
#include "worker/agent/log_lines.h"
#include "worker/agent/supervisor.h"
#include "worker/agent/trainer_exit.h"

namespace mindforge {
namespace {

// True when the change is worth a call of its own.
bool IsNews(const v1::TrainerStatus& before, const v1::TrainerStatus& now) {
  return before.phase() != now.phase() || before.detail() != now.detail() ||
         before.resumed_from() != now.resumed_from() ||
         before.dataset_digest() != now.dataset_digest() ||
         before.total_steps() != now.total_steps() || before.skipped_lines() != now.skipped_lines();
}

}  // namespace

void Supervisor::OnReport(size_t index, const v1::TrainerReport& report) {
  Urgency urgency;
  {
    MutexLock lock(mutex_);
    urgency = Note(slots_[index], report);
    UpdateSpoolMetrics();
  }
  on_change_(urgency);
}

Urgency Supervisor::Note(Slot& slot, const v1::TrainerReport& report) {
  const std::string& job_id = slot.start.job_id();
  switch (report.report_case()) {
    case v1::TrainerReport::kStatus: {
      const bool news = IsNews(slot.status, report.status());
      slot.status = report.status();
      return news ? Urgency::kAtOnce : Urgency::kBatched;
    }
    case v1::TrainerReport::kProgress:
      spool_.AddProgress(job_id, report.progress());
      metrics_.Observe(job_id, slot.device.id(), report.progress());
      return Urgency::kBatched;
    case v1::TrainerReport::kLog:
      AddLog(slot, slot.start.rank(), report.log());
      return Urgency::kBatched;
    case v1::TrainerReport::kCheckpoint:
      AddCheckpoint(job_id, report.checkpoint());
      slot.checkpoint_failures = 0;
      slot.checkpoint_error.clear();
      metrics_.Observe(job_id, report.checkpoint());
      return Urgency::kAtOnce;
    case v1::TrainerReport::kFailure:
      slot.failure = report.failure();
      return Urgency::kBatched;  // its exit follows
    case v1::TrainerReport::kCheckpointFailed:
      ++slot.checkpoint_failures;
      slot.checkpoint_error = absl::StrCat("step ", report.checkpoint_failed().step(), ": ",
                                           report.checkpoint_failed().detail());
      metrics_.CountCheckpointFailure(job_id);
      return Urgency::kAtOnce;
    case v1::TrainerReport::kCorrupt:
      spool_.AddCorruption(job_id, report.corrupt());
      return Urgency::kAtOnce;
    case v1::TrainerReport::REPORT_NOT_SET:
      break;
  }
  return Urgency::kBatched;
}

void Supervisor::OnLine(size_t index, std::string_view line) {
  {
    MutexLock lock(mutex_);
    v1::LogLine parsed = ParseLogLine(line);
    slots_[index].last_line = parsed.text();
    AddLog(slots_[index], slots_[index].start.rank(), std::move(parsed));
    UpdateSpoolMetrics();
  }
  on_change_(Urgency::kBatched);
}

void Supervisor::OnExit(size_t index, const ExitStatus& exit, const std::string& why_killed) {
  {
    MutexLock lock(mutex_);
    Slot& slot = slots_[index];
    slot.exit = DescribeExit({.exit = exit,
                              .phase = slot.status.phase(),
                              .failure = slot.failure,
                              .last_line = slot.last_line,
                              .killed_by_agent = slot.killed,
                              .why_killed = why_killed});
    metrics_.CountTrainerExit(slot.exit->clean());
    // Its last line was the failure's text already, unless it could not write it.
    if (slot.failure && SanitizeUtf8(slot.failure->message()) != slot.last_line) {
      AddAgentLog(slot, v1::LOG_LEVEL_ERROR,
                  absl::StrCat("rank ", slot.start.rank(), ": ", slot.failure->message()));
    }
    if (!slot.exit->clean() && !slot.killed) {
      AddAgentLog(slot, v1::LOG_LEVEL_ERROR,
                  absl::StrCat("rank ", slot.start.rank(), ": the trainer ", slot.exit->cause()));
    }
    MF_LOG(INFO) << "job " << slot.start.job_id() << " generation " << slot.start.generation()
                 << " rank " << slot.start.rank() << ": the trainer " << slot.exit->cause();
  }
  on_change_(Urgency::kAtOnce);
}

void Supervisor::AddLog(const Slot& slot, int rank, v1::LogLine line) {
  line.set_rank(rank);
  line.set_generation(slot.start.generation());
  line.set_worker(options_.name);
  if (line.text().size() > kMaxLogLineBytes) {
    line.set_text(Truncate(line.text(), kMaxLogLineBytes));
  }
  spool_.AddLog(slot.start.job_id(), line);
}

void Supervisor::AddAgentLog(const Slot& slot, v1::LogLevel level, const std::string& text) {
  v1::LogLine line = MakeLogLine(level, text);
  AddLog(slot, -1, std::move(line));
}

void Supervisor::AddCheckpoint(const std::string& job_id, const v1::CheckpointWritten& checkpoint) {
  const auto newest = newest_known_.find(job_id);
  if (newest != newest_known_.end()) newest->second = std::max(newest->second, checkpoint.step());
  spool_.AddCheckpoint(job_id, checkpoint);
}

void Supervisor::UpdateSpoolMetrics() {
  metrics_.SetSpool(spool_.progress_waiting(), spool_.logs_waiting());
  metrics_.SetDropped(spool_.dropped_progress(), spool_.dropped_logs());
}

}  // namespace mindforge
