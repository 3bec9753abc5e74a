// A GenerationSink that keeps what it is told and lets a test wait for it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/check.h"
#include "common/mutex.h"
#include "worker/infer/engine.h"

namespace mindforge {

// Thread-safe.
class RecordingSink : public GenerationSink {
 public:
  // Called for each token outside the lock; false stops the request.
  std::function<bool(const TokenInfo&)> on_token;

  void OnStarted(const StartedInfo& info) override {
    MutexLock lock(mutex_);
    started_ = info;
    changed_.SignalAll();
  }
  void OnPromptLogprobs(const std::vector<PromptTokenInfo>& tokens) override {
    MutexLock lock(mutex_);
    prompt_scores_ = tokens;
  }
  bool OnToken(const TokenInfo& token) override {
    {
      MutexLock lock(mutex_);
      MF_CHECK(started_.has_value() && !finished_.has_value());
      tokens_.push_back(token);
      changed_.SignalAll();
    }
    return on_token == nullptr || on_token(token);
  }
  void OnFinished(const FinishedInfo& info) override {
    MutexLock lock(mutex_);
    MF_CHECK(!finished_.has_value()) << "finished twice";
    finished_ = info;
    changed_.SignalAll();
  }

  FinishedInfo AwaitFinished() {
    MutexLock lock(mutex_);
    MF_CHECK(changed_.WaitFor(mutex_, absl::Seconds(60), [this] {
      mutex_.AssertHeld();
      return finished_.has_value();
    })) << "the request did not finish";
    return *finished_;
  }
  void AwaitTokens(size_t count) {
    MutexLock lock(mutex_);
    MF_CHECK(changed_.WaitFor(mutex_, absl::Seconds(60),
                              [&] {
                                mutex_.AssertHeld();
                                return tokens_.size() >= count;
                              }))
        << "only " << tokens_.size() << " tokens came";
  }
  bool finished() const {
    MutexLock lock(mutex_);
    return finished_.has_value();
  }
  std::optional<StartedInfo> started() const {
    MutexLock lock(mutex_);
    return started_;
  }
  std::vector<TokenInfo> tokens() const {
    MutexLock lock(mutex_);
    return tokens_;
  }
  std::vector<int32_t> token_ids() const {
    MutexLock lock(mutex_);
    std::vector<int32_t> ids;
    for (const TokenInfo& token : tokens_) ids.push_back(token.token);
    return ids;
  }
  std::vector<PromptTokenInfo> prompt_scores() const {
    MutexLock lock(mutex_);
    return prompt_scores_;
  }

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  std::optional<StartedInfo> started_ ABSL_GUARDED_BY(mutex_);
  std::vector<PromptTokenInfo> prompt_scores_ ABSL_GUARDED_BY(mutex_);
  std::vector<TokenInfo> tokens_ ABSL_GUARDED_BY(mutex_);
  std::optional<FinishedInfo> finished_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mindforge
