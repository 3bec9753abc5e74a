#include "worker/serve/inference_metrics.h"

namespace mindforge {
namespace {

std::vector<double> RowBuckets() { return {1, 2, 4, 8, 16, 32, 64, 128, 256, 512}; }

}  // namespace

InferenceMetrics::InferenceMetrics(MetricsRegistry& registry)
    : registry_(registry),
      requests_(registry.AddCounter("requests_total",
                                    "Sequences that the engine finished, by why they ended.")),
      prompt_tokens_(registry.AddCounter("prompt_tokens_total", "Prompt tokens computed.").Get()),
      generation_tokens_(registry.AddCounter("generation_tokens_total", "Tokens generated.").Get()),
      first_token_(registry
                       .AddHistogram("time_to_first_token_seconds",
                                     "From a request's arrival to its first token.")
                       .Get()),
      inter_token_(registry
                       .AddHistogram("inter_token_latency_seconds",
                                     "Between two consecutive tokens of a sequence.")
                       .Get()),
      queue_(
          registry.AddHistogram("request_queue_seconds", "From a request's arrival to a free slot.")
              .Get()),
      batch_size_(
          registry
              .AddHistogram("batch_size", "Sequences computed together in one step.", RowBuckets())
              .Get()),
      step_seconds_(
          registry.AddHistogram("decode_step_seconds", "Duration of one step of the engine.")
              .Get()),
      cancel_seconds_(registry
                          .AddHistogram("cancel_to_slot_free_seconds",
                                        "From a cancellation to the slot being free.")
                          .Get()),
      cancel_steps_(registry
                        .AddHistogram("cancel_to_slot_free_steps",
                                      "Steps begun between a cancellation and the slot being free.",
                                      {0, 1, 2, 3, 4, 8, 16, 32})
                        .Get()),
      running_(registry.AddGauge("requests_running", "Sequences in the batch.").Get()),
      waiting_(registry.AddGauge("requests_waiting", "Sequences waiting for a slot.").Get()),
      kv_usage_(registry.AddGauge("kv_cache_usage_ratio", "Share of the KV memory in use.").Get()),
      version_(registry.AddGauge("weights_version_info", "The weights served, as labels.")) {
  // All reasons from the start, so that rates of the first one are right.
  for (FinishReason reason :
       {FinishReason::kLength, FinishReason::kEos, FinishReason::kStopToken, FinishReason::kStop,
        FinishReason::kMaxTime, FinishReason::kCancelled, FinishReason::kFailed}) {
    requests_.Get({{"reason", FinishReasonName(reason)}});
  }
}

void InferenceMetrics::Watch(const ModelHost& host) {
  registry_.OnScrape([this, &host] {
    const EngineStats stats = host.State().stats;
    running_.Set(static_cast<double>(stats.requests_running));
    waiting_.Set(static_cast<double>(stats.requests_waiting));
    kv_usage_.Set(stats.kv_tokens_total == 0 ? 0
                                             : static_cast<double>(stats.kv_tokens_used) /
                                                   static_cast<double>(stats.kv_tokens_total));
  });
}

void InferenceMetrics::SetVersion(const ServedModel* model) {
  MutexLock lock(mutex_);
  if (!shown_version_.empty()) version_.RemoveWhere("weights_version", shown_version_);
  shown_version_ = model == nullptr ? "" : model->weights_version;
  if (model == nullptr) return;
  version_
      .Get({{"deployment", model->deployment},
            {"weights_version", model->weights_version},
            {"numerics_id", model->numerics_id}})
      .Set(1);
}

void InferenceMetrics::OnStep(int64_t rows, int64_t prefill_tokens, absl::Duration took) {
  batch_size_.Observe(static_cast<double>(rows));
  step_seconds_.Observe(absl::ToDoubleSeconds(took));
  prompt_tokens_.Increment(static_cast<double>(prefill_tokens));
}

void InferenceMetrics::OnAdmitted(absl::Duration queue_time) {
  queue_.Observe(absl::ToDoubleSeconds(queue_time));
}

void InferenceMetrics::OnFirstToken(absl::Duration since_submit) {
  first_token_.Observe(absl::ToDoubleSeconds(since_submit));
  generation_tokens_.Increment();
}

void InferenceMetrics::OnInterToken(absl::Duration since_last) {
  inter_token_.Observe(absl::ToDoubleSeconds(since_last));
  generation_tokens_.Increment();
}

void InferenceMetrics::OnRequestFinished(const FinishedInfo& info) {
  requests_.Get({{"reason", FinishReasonName(info.reason)}}).Increment();
}

void InferenceMetrics::OnCancelledSlotFree(absl::Duration since_cancel, int64_t steps) {
  cancel_seconds_.Observe(absl::ToDoubleSeconds(since_cancel));
  cancel_steps_.Observe(static_cast<double>(steps));
}

}  // namespace mindforge
