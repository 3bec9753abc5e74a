#include "coordinator/coordinator_metrics.h"

#include <algorithm>
#include <map>
#include <string>

#include "absl/strings/ascii.h"

namespace mindforge {
namespace {

constexpr sched::JobState kJobStates[] = {sched::JobState::kQueued,     sched::JobState::kStarting,
                                          sched::JobState::kRunning,    sched::JobState::kResizing,
                                          sched::JobState::kPausing,    sched::JobState::kPaused,
                                          sched::JobState::kCancelling, sched::JobState::kCancelled,
                                          sched::JobState::kSucceeded,  sched::JobState::kFailed};

std::string Label(sched::JobState state) { return absl::AsciiStrToLower(sched::StateName(state)); }

const char* Label(sched::WorkerState state) {
  switch (state) {
    case sched::WorkerState::kReady:
      return "ready";
    case sched::WorkerState::kDraining:
      return "draining";
    case sched::WorkerState::kLost:
      return "lost";
  }
  return "unknown";
}

}  // namespace

CoordinatorMetrics::CoordinatorMetrics(MetricsRegistry& registry)
    : registry_(registry),
      jobs_(registry.AddGauge("jobs", "Jobs known to the coordinator, by state.")),
      workers_(registry.AddGauge("workers", "Training workers, by state.")),
      world_size_(registry.AddGauge("world_size", "Ranks of a live job's current generation.")),
      goodput_(registry.AddGauge(
          "goodput_ratio",
          "Share of a live job's time since its first start spent in steps that counted.")),
      last_checkpoint_(registry.AddGauge("checkpoint_last_committed_step",
                                         "Step of a live job's newest committed checkpoint.")),
      queue_wait_(registry.AddHistogram("job_queue_wait_seconds",
                                        "Time that jobs waited in the queue before placement.",
                                        ExponentialBuckets(1e-3, 4, 12))),
      decision_(registry.AddHistogram("scheduler_decision_seconds",
                                      "Time that one step of the scheduler took.",
                                      ExponentialBuckets(1e-6, 4, 12))),
      commit_(registry.AddHistogram("store_commit_seconds",
                                    "Time that one transaction of the store took.")),
      recovery_seconds_(registry.AddHistogram(
          "recovery_seconds", "Time from the loss of a member until the job reached a phase again.",
          ExponentialBuckets(1e-3, 3, 14))),
      recoveries_(
          registry.AddCounter("recoveries_total", "Restarts of a job's group, by what was lost.")),
      world_size_changes_(registry.AddCounter(
          "world_size_changes_total", "Generations with another world size than the one before.")) {
  world_size_changes_.Get();
  queue_wait_.Get();
  decision_.Get();
  commit_.Get();
}

void CoordinatorMetrics::ObserveDecision(absl::Duration took) {
  decision_.Get().Observe(absl::ToDoubleSeconds(took));
}

void CoordinatorMetrics::ObserveCommit(absl::Duration took) {
  commit_.Get().Observe(absl::ToDoubleSeconds(took));
}

void CoordinatorMetrics::Take(const sched::Outcome& outcome) {
  for (const sched::Measurement& measurement : outcome.measurements) {
    switch (measurement.what) {
      case sched::Measure::kQueueWaitSeconds:
        queue_wait_.Get().Observe(measurement.value);
        break;
      case sched::Measure::kRecovery:
        recoveries_.Get({{"cause", measurement.label}}).Increment();
        break;
      case sched::Measure::kRecoverySeconds:
        recovery_seconds_.Get({{"phase", measurement.label}}).Observe(measurement.value);
        break;
      case sched::Measure::kWorldSizeChange:
        world_size_changes_.Get().Increment();
        break;
    }
  }
  for (const JobId& job : outcome.ended_jobs) registry_.RemoveWhere("job", job.value());
}

void CoordinatorMetrics::SetGauges(const sched::State& state, const sched::Now& now) {
  std::map<sched::JobState, int> jobs;
  for (const auto& [id, job] : state.jobs) ++jobs[job.state];
  for (const sched::JobState s : kJobStates) jobs_.Get({{"state", Label(s)}}).Set(jobs[s]);

  std::map<sched::WorkerState, int> workers;
  for (const auto& [id, worker] : state.workers) ++workers[worker.state()];
  for (const auto s :
       {sched::WorkerState::kReady, sched::WorkerState::kDraining, sched::WorkerState::kLost}) {
    workers_.Get({{"state", Label(s)}}).Set(workers[s]);
  }

  for (const auto& [name, id] : state.live_names) {
    const sched::Job& job = state.jobs.at(id);
    if (job.generation.value() == 0) continue;  // bounded by the devices, not by the queue
    const MetricLabels labels = {{"job", id.value()}};
    world_size_.Get(labels).Set(static_cast<double>(job.members.size()));
    if (const sched::Checkpoint* newest = sched::NewestCheckpoint(state, id)) {
      last_checkpoint_.Get(labels).Set(static_cast<double>(newest->step));
    }
    if (job.started_at == absl::InfinitePast()) continue;
    const double elapsed = absl::ToDoubleSeconds(now.wall - job.started_at);
    if (elapsed > 0) goodput_.Get(labels).Set(std::min(1.0, job.productive_seconds / elapsed));
  }
}

}  // namespace mindforge
