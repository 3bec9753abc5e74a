// A ModelRunner without a model: the next token is a hash of the slot's whole content, so a test
// notices any mix-up of slots, positions or chunks. Forward can be held at a gate, which lets a
// test decide what happens between which steps.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/check.h"
#include "common/mutex.h"
#include "worker/infer/model_runner.h"

namespace mindforge {

struct FakeModelOptions {
  int64_t vocab_size = 64;
  int64_t max_context = 256;
  int64_t slots = 4;
  int64_t max_batch_tokens = 64;
  uint64_t weights = 1;  // changes every prediction
};

// Steps of a fake, seen and steered from the test's thread. Thread-safe; outlives the runner.
class FakeModelControl {
 public:
  struct Row {
    int64_t slot;
    int64_t start_position;
    int64_t tokens;
  };

  // From now on Forward waits until Allow lets it pass.
  void Hold() {
    MutexLock lock(mutex_);
    held_ = true;
  }
  // Lets `steps` calls of Forward pass.
  void Allow(int64_t steps) {
    MutexLock lock(mutex_);
    allowed_ += steps;
    changed_.SignalAll();
  }
  void Open() {
    MutexLock lock(mutex_);
    held_ = false;
    changed_.SignalAll();
  }
  // The next `steps` calls of Forward that pass fail.
  void FailNext(absl::Status status, int64_t steps = 1) {
    MutexLock lock(mutex_);
    failure_ = std::move(status);
    failures_ = steps;
  }
  // Waits until `count` calls of Forward have reached the gate.
  void AwaitArrivals(int64_t count) {
    MutexLock lock(mutex_);
    MF_CHECK(changed_.WaitFor(mutex_, absl::Seconds(20),
                              [&] {
                                mutex_.AssertHeld();
                                return arrived_ >= count;
                              }))
        << "step " << count << " did not come; " << arrived_ << " did";
  }
  int64_t arrived() const {
    MutexLock lock(mutex_);
    return arrived_;
  }
  // The batches so far, those at the gate included.
  std::vector<std::vector<Row>> batches() const {
    MutexLock lock(mutex_);
    return batches_;
  }

 private:
  friend class FakeModelRunner;

  absl::Status Pass(const StepBatch& batch) {
    MutexLock lock(mutex_);
    std::vector<Row> rows;
    for (const StepRow& row : batch.rows) {
      rows.push_back({row.slot, row.start_position, static_cast<int64_t>(row.tokens.size())});
    }
    batches_.push_back(std::move(rows));
    ++arrived_;
    changed_.SignalAll();
    changed_.Wait(mutex_, [this] {
      mutex_.AssertHeld();
      return !held_ || allowed_ > 0;
    });
    if (held_) --allowed_;
    if (failures_ == 0) return absl::OkStatus();
    --failures_;
    return failure_;
  }

  mutable Mutex mutex_;
  CondVar changed_;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t allowed_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t arrived_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  int64_t failures_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::vector<Row>> batches_ ABSL_GUARDED_BY(mutex_);
};

class FakeModelRunner : public ModelRunner {
 public:
  FakeModelRunner(FakeModelOptions options, FakeModelControl* control)
      : options_(options), control_(control), slots_(options.slots) {}

  int64_t vocab_size() const override { return options_.vocab_size; }
  int64_t max_context() const override { return options_.max_context; }
  int64_t slots() const override { return options_.slots; }
  int64_t max_batch_tokens() const override { return options_.max_batch_tokens; }
  const std::string& numerics_id() const override { return numerics_id_; }

  // What the model puts after `tokens`.
  static int32_t Next(const FakeModelOptions& options, const std::vector<int32_t>& tokens) {
    uint64_t hash = options.weights * 0x9E3779B97F4A7C15u;
    for (int32_t token : tokens) hash = (hash ^ static_cast<uint64_t>(token)) * 0x100000001B3u;
    return static_cast<int32_t>((hash >> 20) % options.vocab_size);
  }
  static std::vector<int32_t> Continue(const FakeModelOptions& options, std::vector<int32_t> tokens,
                                       int64_t count) {
    std::vector<int32_t> output;
    for (int64_t i = 0; i < count; ++i) {
      output.push_back(Next(options, tokens));
      tokens.push_back(output.back());
    }
    return output;
  }

  absl::Status Forward(const StepBatch& batch, float* logits) override {
    if (absl::Status status = control_->Pass(batch); !status.ok()) return status;
    MF_CHECK_LE(batch.TokenCount(), options_.max_batch_tokens);
    std::vector<bool> used(options_.slots);
    for (const StepRow& row : batch.rows) {
      MF_CHECK(!used.at(row.slot)) << "slot " << row.slot << " twice in a batch";
      used[row.slot] = true;
      std::vector<int32_t>& held = slots_.at(row.slot);
      MF_CHECK_LE(row.start_position, static_cast<int64_t>(held.size()));
      held.resize(row.start_position);
      const auto count = static_cast<int64_t>(row.tokens.size());
      MF_CHECK_LE(row.logits, count);
      for (int64_t i = 0; i < count; ++i) {
        held.push_back(row.tokens[i]);
        if (i < count - row.logits) continue;
        std::fill_n(logits, options_.vocab_size, 0.0f);
        logits[Next(options_, held)] = 10.0f;
        logits += options_.vocab_size;
      }
      MF_CHECK_LE(static_cast<int64_t>(held.size()), options_.max_context);
    }
    return absl::OkStatus();
  }

 private:
  const FakeModelOptions options_;
  FakeModelControl* const control_;
  const std::string numerics_id_ = "fake-1";
  std::vector<std::vector<int32_t>> slots_;
};

}  // namespace mindforge
