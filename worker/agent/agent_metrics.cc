#include "worker/agent/agent_metrics.h"

#include <algorithm>

namespace mindforge {

AgentMetrics::AgentMetrics(MetricsRegistry& registry)
    : registry_(registry),
      devices_(registry.AddGauge("worker_devices", "Devices that this worker offers.")),
      reachable_(registry.AddGauge("worker_coordinator_reachable",
                                   "1 when the newest call to the coordinator was answered.")),
      spooled_(registry.AddGauge("worker_spooled_records",
                                 "Records and log lines not yet acknowledged, by kind.")),
      dropped_(registry.AddCounter("worker_dropped_records_total",
                                   "Records and log lines dropped from a full spool, by kind.")),
      exits_(registry.AddCounter("worker_trainer_exits_total",
                                 "Trainers that ended, by whether they ended cleanly.")),
      loss_(registry.AddGauge("train_loss", "Loss of the newest step.")),
      grad_norm_(
          registry.AddGauge("train_grad_norm", "Gradient norm before clipping, newest step.")),
      learning_rate_(registry.AddGauge("train_learning_rate", "Learning rate of the newest step.")),
      step_(registry.AddGauge("train_step", "The newest finished optimizer step.")),
      tokens_(registry.AddCounter("train_tokens_total",
                                  "Target tokens trained on, counted where rank 0 runs.")),
      tokens_per_second_(
          registry.AddGauge("train_tokens_per_second", "Tokens per second of the newest step.")),
      mfu_(registry.AddGauge("train_mfu_ratio",
                             "Model FLOP per second over the device's ceiling, newest step.")),
      step_seconds_(registry.AddHistogram("train_step_seconds",
                                          "Time of a step: total, and its parts by phase.")),
      checkpoint_seconds_(
          registry.AddHistogram("checkpoint_seconds", "Time of a checkpoint, by phase.")),
      checkpoint_stall_(registry.AddHistogram("checkpoint_stall_seconds",
                                              "Time that a step waited for a checkpoint's copy.")),
      checkpoint_failures_(registry.AddCounter("checkpoint_failures_total",
                                               "Checkpoints that could not be written.")),
      device_memory_(registry.AddGauge("device_memory_bytes",
                                       "Memory of the device that rank 0 runs on, by kind.")) {}

void AgentMetrics::SetSpool(size_t progress, size_t logs) {
  spooled_.Get({{"kind", "progress"}}).Set(static_cast<double>(progress));
  spooled_.Get({{"kind", "log"}}).Set(static_cast<double>(logs));
}

void AgentMetrics::SetDropped(int64_t progress, int64_t logs) {
  const auto raise = [&](const char* kind, int64_t total) {
    prometheus::Counter& counter = dropped_.Get({{"kind", kind}});
    counter.Increment(std::max(0.0, static_cast<double>(total) - counter.Value()));
  };
  raise("progress", progress);
  raise("log", logs);
}

void AgentMetrics::CountTrainerExit(bool clean) {
  exits_.Get({{"clean", clean ? "true" : "false"}}).Increment();
}

void AgentMetrics::Observe(const std::string& job_id, const std::string& device_id,
                           const v1::ProgressRecord& record) {
  const MetricLabels job{{"job", job_id}};
  loss_.Get(job).Set(record.loss());
  grad_norm_.Get(job).Set(record.gradient_norm());
  learning_rate_.Get(job).Set(record.learning_rate());
  step_.Get(job).Set(static_cast<double>(record.step()));
  tokens_.Get(job).Increment(static_cast<double>(std::max<int64_t>(0, record.tokens())));
  tokens_per_second_.Get(job).Set(record.tokens_per_second());
  if (record.mfu() > 0) mfu_.Get(job).Set(record.mfu());
  step_seconds_.Get({{"job", job_id}, {"phase", "total"}}).Observe(record.step_seconds());
  for (const auto& [phase, seconds] : record.phase_seconds()) {
    step_seconds_.Get({{"job", job_id}, {"phase", phase}}).Observe(seconds);
  }
  checkpoint_stall_.Get(job).Observe(record.checkpoint_stall_seconds());
  if (record.device_memory_bytes() > 0) {
    device_memory_.Get({{"job", job_id}, {"device", device_id}, {"kind", "used"}})
        .Set(static_cast<double>(record.device_memory_bytes()));
  }
}

void AgentMetrics::Observe(const std::string& job_id, const v1::CheckpointWritten& checkpoint) {
  checkpoint_seconds_.Get({{"job", job_id}, {"phase", "write"}})
      .Observe(checkpoint.write_seconds());
}

void AgentMetrics::CountCheckpointFailure(const std::string& job_id) {
  checkpoint_failures_.Get({{"job", job_id}}).Increment();
}

void AgentMetrics::RemoveJob(const std::string& job_id) { registry_.RemoveWhere("job", job_id); }

}  // namespace mindforge
