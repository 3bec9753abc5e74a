#include "worker/infer/batcher.h"

#include <pthread.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "worker/infer/request_check.h"

namespace mindforge {
namespace {

std::optional<SequenceEnd> Cancelled() {
  return SequenceEnd{FinishReason::kCancelled, absl::OkStatus()};
}

}  // namespace

Engine::Batcher::Batcher(std::unique_ptr<ModelRunner> runner, std::string weights_version,
                         EngineOptions options, EngineObserver* observer)
    : options_(options),
      clock_(options.clock != nullptr ? *options.clock : real_clock_),
      observer_(observer) {
  models_.push_back(
      std::make_unique<LiveModel>(std::move(runner), std::move(weights_version), options_));
  model_ = models_.back()->Describe();
  stats_.kv_tokens_total = models_.back()->kv_tokens_total();
  thread_ = std::thread([this] { Run(); });
}

Engine::Batcher::~Batcher() { Stop(); }

absl::Status Engine::Batcher::CheckRoom() const {
  MutexLock lock(mutex_);
  return CheckRoomLocked();
}

absl::Status Engine::Batcher::CheckRoomLocked() const {
  if (stopping_ || stats_.draining) {
    return absl::UnavailableError("the engine takes no new requests: it is shutting down");
  }
  if (static_cast<int64_t>(queue_.size()) < options_.max_queue) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the queue is full: ", queue_.size(), " requests are waiting (the limit is ",
                   options_.max_queue, "); try again later or add replicas"));
}

absl::StatusOr<RequestHandle> Engine::Batcher::Submit(GenerationRequest request,
                                                      std::shared_ptr<GenerationSink> sink) {
  MutexLock lock(mutex_);
  if (absl::Status status = CheckRoomLocked(); !status.ok()) return status;
  if (absl::Status status = CheckRequest(request, model_); !status.ok()) return status;
  const uint64_t id = next_id_++;
  const int64_t priority = request.priority;
  queue_.emplace(
      std::make_pair(-priority, id),
      std::make_unique<Sequence>(id, std::move(request), std::move(sink), clock_, observer_));
  active_.insert(id);
  work_.Signal();
  return RequestHandle{id};
}

void Engine::Batcher::Cancel(RequestHandle handle) {
  MutexLock lock(mutex_);
  if (!active_.contains(handle.id)) return;
  cancelled_.try_emplace(handle.id, CancelMark{clock_.MonotonicNow(), stats_.steps});
  work_.Signal();
}

absl::Status Engine::Batcher::SwapModel(std::unique_ptr<ModelRunner> runner,
                                        std::string weights_version) {
  auto model = std::make_unique<LiveModel>(std::move(runner), std::move(weights_version), options_);
  MutexLock lock(mutex_);
  if (stopping_) return absl::UnavailableError("the engine has stopped");
  if (versions_ > options_.max_retiring_versions) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "requests are still running on ", versions_ - 1, " older versions of the weights (the",
        " limit is ", options_.max_retiring_versions, "); try again when they have finished"));
  }
  model_ = model->Describe();
  incoming_.push_back(std::move(model));
  ++versions_;
  work_.Signal();
  return absl::OkStatus();
}

EngineModel Engine::Batcher::Model() const {
  MutexLock lock(mutex_);
  return model_;
}

EngineStats Engine::Batcher::Stats() const {
  MutexLock lock(mutex_);
  EngineStats stats = stats_;
  stats.requests_waiting = static_cast<int64_t>(queue_.size());
  stats.requests_running = static_cast<int64_t>(active_.size() - queue_.size());
  stats.retiring_versions = versions_ - 1;
  return stats;
}

absl::Status Engine::Batcher::Drain(absl::Duration timeout) {
  MutexLock lock(mutex_);
  stats_.draining = true;
  const bool done = idle_.WaitFor(mutex_, timeout, [this] {
    mutex_.AssertHeld();
    return active_.empty();
  });
  if (done) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat(active_.size(), " requests are still running"));
}

void Engine::Batcher::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    work_.Signal();
  }
  MutexLock lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void Engine::Batcher::Run() {
  pthread_setname_np(pthread_self(), "batcher");
  while (WaitForWork()) {
    TakeOverModels();
    EndCancelledAndExpired();
    Admit();
    StepAll();
    RetireModels();
    PublishStats();
  }
  EndEverything();
}

bool Engine::Batcher::WaitForWork() {
  const bool live = std::any_of(models_.begin(), models_.end(),
                                [](const auto& model) { return model->live() > 0; });
  MutexLock lock(mutex_);
  work_.Wait(mutex_, [this, live] {
    mutex_.AssertHeld();
    return live || stopping_ || !queue_.empty() || !cancelled_.empty() || !incoming_.empty();
  });
  return !stopping_;
}

void Engine::Batcher::TakeOverModels() {
  MutexLock lock(mutex_);
  for (auto& model : incoming_) models_.push_back(std::move(model));
  incoming_.clear();
}

void Engine::Batcher::EndCancelledAndExpired() {
  CancelMarks marks;
  {
    MutexLock lock(mutex_);
    marks.swap(cancelled_);
  }
  const absl::Time now = clock_.Now();
  for (auto& model : models_) {
    const std::vector<uint64_t> ended =
        model->EndWhere([&](const Sequence& sequence) -> std::optional<SequenceEnd> {
          if (marks.contains(sequence.id())) return Cancelled();
          if (now < sequence.deadline()) return std::nullopt;
          return SequenceEnd{FinishReason::kMaxTime, absl::OkStatus()};
        });
    for (uint64_t id : ended) {
      const auto mark = marks.find(id);
      if (observer_ == nullptr || mark == marks.end()) continue;
      observer_->OnCancelledSlotFree(clock_.MonotonicNow() - mark->second.at,
                                     figures_.steps - mark->second.steps);
    }
    Forget(ended);
  }
  EndQueued(marks);
}

void Engine::Batcher::EndQueued(const CancelMarks& marks) {
  std::vector<std::unique_ptr<Sequence>> taken;
  {
    MutexLock lock(mutex_);
    const absl::Time now = clock_.Now();
    for (auto entry = queue_.begin(); entry != queue_.end();) {
      const Sequence& sequence = *entry->second;
      if (marks.contains(sequence.id()) || sequence.deadline() <= now) {
        taken.push_back(std::move(entry->second));
        entry = queue_.erase(entry);
      } else {
        ++entry;
      }
    }
  }
  std::vector<uint64_t> ids;
  for (const auto& sequence : taken) {
    sequence->Finish(marks.contains(sequence->id())
                         ? *Cancelled()
                         : SequenceEnd{FinishReason::kMaxTime, absl::OkStatus()});
    ids.push_back(sequence->id());
  }
  Forget(ids);
}

void Engine::Batcher::Admit() {
  LiveModel& model = *models_.back();
  const EngineModel description = model.Describe();
  while (model.free_slots() > 0) {
    std::unique_ptr<Sequence> sequence;
    {
      MutexLock lock(mutex_);
      if (queue_.empty()) return;
      sequence = std::move(queue_.begin()->second);
      queue_.erase(queue_.begin());
    }
    // It was accepted for the weights of that time; the present ones may be of another shape.
    const absl::Status fits = CheckRequest(sequence->request(), description);
    if (fits.ok()) {
      model.Admit(std::move(sequence));
    } else {
      sequence->Finish({FinishReason::kFailed, fits});
      Forget({sequence->id()});
    }
  }
}

void Engine::Batcher::StepAll() {
  for (auto& model : models_) {
    if (model->live() == 0) continue;
    const absl::Duration start = clock_.MonotonicNow();
    {
      MutexLock lock(mutex_);
      stats_.steps = ++figures_.steps;
    }
    std::vector<uint64_t> ended;
    const StepFigures step = model->Step(ended);
    Forget(ended);
    NoteOutcome(step);
    figures_.prompt_tokens += step.prefill_tokens;
    figures_.generated_tokens += step.generated_tokens;
    if (observer_ != nullptr) {
      observer_->OnStep(step.rows, step.prefill_tokens, clock_.MonotonicNow() - start);
    }
  }
}

void Engine::Batcher::NoteOutcome(const StepFigures& step) {
  if (step.status.ok()) {
    failed_in_a_row_ = 0;
    return;
  }
  ++failed_in_a_row_;
  MF_LOG(WARNING) << "a step failed and ended its " << step.rows << " sequences ("
                  << failed_in_a_row_ << " in a row): " << step.status.message();
  if (failed_in_a_row_ == options_.max_failed_steps && options_.on_failing) {
    options_.on_failing(step.status);
  }
}

void Engine::Batcher::RetireModels() {
  if (models_.size() == 1) return;
  const LiveModel* newest = models_.back().get();
  const size_t retired = std::erase_if(models_, [newest](const std::unique_ptr<LiveModel>& model) {
    return model.get() != newest && model->live() == 0;
  });
  MutexLock lock(mutex_);
  versions_ -= static_cast<int64_t>(retired);
}

void Engine::Batcher::PublishStats() {
  figures_.kv_tokens_used = 0;
  figures_.kv_tokens_total = 0;
  for (const auto& model : models_) {
    figures_.kv_tokens_used += model->kv_tokens_used();
    figures_.kv_tokens_total += model->kv_tokens_total();
  }
  MutexLock lock(mutex_);
  const bool draining = stats_.draining;
  stats_ = figures_;
  stats_.draining = draining;
}

void Engine::Batcher::EndEverything() {
  for (auto& model : models_) {
    Forget(model->EndWhere([](const Sequence&) { return Cancelled(); }));
  }
  Queue queue;
  {
    MutexLock lock(mutex_);
    queue.swap(queue_);
  }
  for (auto& [key, sequence] : queue) {
    sequence->Finish(*Cancelled());
    Forget({sequence->id()});
  }
}

void Engine::Batcher::Forget(const std::vector<uint64_t>& ids) {
  if (ids.empty()) return;
  MutexLock lock(mutex_);
  for (uint64_t id : ids) {
    active_.erase(id);
    cancelled_.erase(id);
  }
  if (active_.empty()) idle_.SignalAll();
}

}  // namespace mindforge
