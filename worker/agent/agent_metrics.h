// The agent's metrics: what trainers report, by job, and how the agent itself is doing.
#pragma once

#include <string>

#include "common/metrics.h"
#include "mindforge/v1/trainer.pb.h"
#include "mindforge/v1/types.pb.h"

namespace mindforge {

// Not thread-safe as a whole: the agent's mutex keeps an observation and the removal of its job's
// series apart.
class AgentMetrics {
 public:
  // `registry` is borrowed and must outlive it.
  explicit AgentMetrics(MetricsRegistry& registry);

  void SetDevices(int count) { devices_.Get().Set(count); }
  void SetReachable(bool reachable) { reachable_.Get().Set(reachable ? 1 : 0); }
  void SetSpool(size_t progress, size_t logs);
  void SetDropped(int64_t progress, int64_t logs);
  void CountTrainerExit(bool clean);

  void Observe(const std::string& job_id, const std::string& device_id,
               const v1::ProgressRecord& record);
  void Observe(const std::string& job_id, const v1::CheckpointWritten& checkpoint);
  void CountCheckpointFailure(const std::string& job_id);
  // The job has no trainer here any more.
  void RemoveJob(const std::string& job_id);

 private:
  MetricsRegistry& registry_;
  GaugeFamily& devices_;
  GaugeFamily& reachable_;
  GaugeFamily& spooled_;
  CounterFamily& dropped_;
  CounterFamily& exits_;
  GaugeFamily& loss_;
  GaugeFamily& grad_norm_;
  GaugeFamily& learning_rate_;
  GaugeFamily& step_;
  CounterFamily& tokens_;
  GaugeFamily& tokens_per_second_;
  GaugeFamily& mfu_;
  HistogramFamily& step_seconds_;
  HistogramFamily& checkpoint_seconds_;
  HistogramFamily& checkpoint_stall_;
  CounterFamily& checkpoint_failures_;
  GaugeFamily& device_memory_;
};

}  // namespace mindforge
