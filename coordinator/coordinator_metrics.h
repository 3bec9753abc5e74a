// The coordinator's own metrics; names are a contract with whoever scrapes them.
#pragma once

#include <vector>

#include "absl/time/time.h"
#include "common/metrics.h"
#include "coordinator/scheduler/event.h"
#include "coordinator/scheduler/state.h"

namespace mindforge {

// Thread-safe. Borrows the registry.
class CoordinatorMetrics {
 public:
  explicit CoordinatorMetrics(MetricsRegistry& registry);

  void ObserveDecision(absl::Duration took);
  void ObserveCommit(absl::Duration took);
  // What a step asked to be measured, and series of ended jobs to drop.
  void Take(const sched::Outcome& outcome);
  // Sets the gauges from the state. REQUIRES: the caller keeps the state from changing.
  void SetGauges(const sched::State& state, const sched::Now& now);

 private:
  MetricsRegistry& registry_;
  GaugeFamily& jobs_;
  GaugeFamily& workers_;
  GaugeFamily& world_size_;
  GaugeFamily& goodput_;
  GaugeFamily& last_checkpoint_;
  HistogramFamily& queue_wait_;
  HistogramFamily& decision_;
  HistogramFamily& commit_;
  HistogramFamily& recovery_seconds_;
  CounterFamily& recoveries_;
  CounterFamily& world_size_changes_;
};

}  // namespace mindforge
