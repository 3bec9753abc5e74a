// The inference worker's metrics, from what the engine tells its observer and from its figures.
#pragma once

#include <string>

#include "common/metrics.h"
#include "worker/infer/engine.h"
#include "worker/serve/model_host.h"

namespace mindforge {

// Thread-safe. Borrows the registry. Outlives every engine that it observes.
class InferenceMetrics : public EngineObserver {
 public:
  explicit InferenceMetrics(MetricsRegistry& registry);

  // Sets the gauges from `host` at each scrape. REQUIRES: `host` outlives the MetricsServer.
  void Watch(const ModelHost& host);
  // The weights served from now on.
  void SetVersion(const ServedModel* model);

  void OnStep(int64_t rows, int64_t prefill_tokens, absl::Duration took) override;
  void OnAdmitted(absl::Duration queue_time) override;
  void OnFirstToken(absl::Duration since_submit) override;
  void OnInterToken(absl::Duration since_last) override;
  void OnRequestFinished(const FinishedInfo& info) override;
  void OnCancelledSlotFree(absl::Duration since_cancel, int64_t steps) override;

 private:
  MetricsRegistry& registry_;
  CounterFamily& requests_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& generation_tokens_;
  prometheus::Histogram& first_token_;
  prometheus::Histogram& inter_token_;
  prometheus::Histogram& queue_;
  prometheus::Histogram& batch_size_;
  prometheus::Histogram& step_seconds_;
  prometheus::Histogram& cancel_seconds_;
  prometheus::Histogram& cancel_steps_;
  prometheus::Gauge& running_;
  prometheus::Gauge& waiting_;
  prometheus::Gauge& kv_usage_;
  GaugeFamily& version_;
  Mutex mutex_;
  std::string shown_version_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mindforge
