#include "worker/serve/model_host.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error_details.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

// How often old engines are looked at while some have requests.
constexpr absl::Duration kReapInterval = absl::Milliseconds(200);

// Requests tokenized for `a` mean the same to `b`, and its engine can take b's weights.
bool SameShape(const ServedModel& a, const ServedModel& b) {
  return a.tokenizer->digest() == b.tokenizer->digest() && a.vocab_size == b.vocab_size &&
         a.max_context == b.max_context && a.eos_ids == b.eos_ids;
}

bool Idle(const Engine& engine) {
  const EngineStats stats = engine.Stats();
  return stats.requests_running + stats.requests_waiting == 0;
}

void Accumulate(const EngineStats& from, EngineStats* to) {
  to->requests_running += from.requests_running;
  to->requests_waiting += from.requests_waiting;
  to->retiring_versions += from.retiring_versions;
  to->kv_tokens_used += from.kv_tokens_used;
  to->kv_tokens_total += from.kv_tokens_total;
  to->prompt_tokens += from.prompt_tokens;
  to->generated_tokens += from.generated_tokens;
  to->steps += from.steps;
}

}  // namespace

ModelHost::ModelHost(Options options)
    : options_(std::move(options)),
      clock_(*options_.clock),
      retry_wait_(options_.retry_after),
      thread_([this] { Run(); }) {}

ModelHost::~ModelHost() { Stop(); }

void ModelHost::SetDesired(std::optional<v1::DesiredModel> desired) {
  MutexLock lock(mutex_);
  const bool same =
      desired.has_value() == desired_.has_value() &&
      (!desired.has_value() || desired->SerializeAsString() == desired_->SerializeAsString());
  if (same && desired_number_ > 0) return;
  desired_ = std::move(desired);
  ++desired_number_;
  retry_wait_ = options_.retry_after;
  changed_.SignalAll();
}

absl::Status ModelHost::WaitUntilSettled() {
  MutexLock lock(mutex_);
  changed_.Wait(mutex_, [this] {
    mutex_.AssertHeld();
    return stopping_ || settled_number_ == desired_number_;
  });
  return stopping_ ? absl::CancelledError("the model host stopped") : settled_status_;
}

Serving ModelHost::Current() const {
  MutexLock lock(mutex_);
  return serving_;
}

HostState ModelHost::State() const {
  MutexLock lock(mutex_);
  HostState state;
  state.model = serving_.model;
  state.draining = draining_;
  state.failure = failure_;
  state.load_error = load_error_;
  state.load_error_version = load_error_version_;
  if (serving_.engine != nullptr) {
    Accumulate(serving_.engine->Stats(), &state.stats);
    state.slots = serving_.engine->Model().slots;
  }
  for (const auto& engine : retired_) Accumulate(engine->Stats(), &state.stats);
  return state;
}

bool ModelHost::DueLocked() const {
  return settled_number_ != desired_number_ || clock_.MonotonicNow() >= retry_at_;
}

std::optional<ModelHost::Work> ModelHost::NextWork() {
  MutexLock lock(mutex_);
  const absl::Duration wait = retired_.empty()
                                  ? retry_at_ - clock_.MonotonicNow()
                                  : std::min(kReapInterval, retry_at_ - clock_.MonotonicNow());
  changed_.WaitFor(mutex_, wait, [this] {
    mutex_.AssertHeld();
    return stopping_ || DueLocked();
  });
  if (stopping_) return std::nullopt;
  Work work;
  if (DueLocked()) {
    retry_at_ = absl::InfiniteDuration();
    work.number = desired_number_;
    work.desired = desired_;
  }
  return work;
}

void ModelHost::Run() {
  pthread_setname_np(pthread_self(), "model-host");
  while (std::optional<Work> work = NextWork()) {
    ReapRetired();
    if (work->number == 0) continue;
    const absl::Status status = Apply(work->desired);
    Settle(*work, status);
    if (options_.on_change) options_.on_change();
  }
}

absl::Status ModelHost::Apply(const std::optional<v1::DesiredModel>& desired) {
  const Serving current = Current();
  if (!desired.has_value()) {
    SetServing({});
    return absl::OkStatus();
  }
  if (current.model != nullptr && HasWeights(*current.model, *desired)) {
    auto renamed = std::make_shared<ServedModel>(*current.model);
    Rename(*desired, renamed.get());
    SetServing({std::move(renamed), current.engine});
    return absl::OkStatus();
  }
  return Load(*desired);
}

absl::Status ModelHost::Load(const v1::DesiredModel& desired) {
  const absl::Duration start = clock_.MonotonicNow();
  ASSIGN_OR_RETURN(LoadedModel loaded, options_.loader(desired));
  const std::shared_ptr<const ServedModel> model = loaded.model;
  RETURN_IF_ERROR(Install(std::move(loaded)));
  MF_LOG(INFO) << model->deployment << ": serving " << model->weights_version << " from "
               << model->path << " (" << model->parameter_count << " parameters, " << model->dtype
               << ", loaded in " << absl::FormatDuration(clock_.MonotonicNow() - start) << ")";
  return absl::OkStatus();
}

absl::Status ModelHost::Install(LoadedModel loaded) {
  Serving next{loaded.model, Current().engine};
  const std::shared_ptr<const ServedModel> before = Current().model;
  if (before != nullptr && SameShape(*before, *loaded.model)) {
    RETURN_IF_ERROR(WaitForRoom(*next.engine));
    RETURN_IF_ERROR(
        next.engine->SwapModel(std::move(loaded.runner), loaded.model->weights_version));
  } else {
    EngineOptions engine = options_.engine;
    engine.on_failing = [this](const absl::Status& status) { Fail(status); };
    next.engine = std::make_shared<Engine>(std::move(loaded.runner), loaded.model->weights_version,
                                           std::move(engine), options_.observer);
  }
  SetServing(std::move(next));
  return absl::OkStatus();
}

void ModelHost::Fail(const absl::Status& status) {
  std::function<void()> on_failure;
  {
    MutexLock lock(mutex_);
    if (!failure_.ok()) return;
    failure_ = Annotate(status, absl::StrCat(options_.engine.max_failed_steps,
                                             " steps in a row failed, the last one with"));
    on_failure = std::move(on_failure_);
  }
  if (options_.on_change) options_.on_change();
  if (on_failure) on_failure();
}

void ModelHost::OnFailure(std::function<void()> callback) {
  {
    MutexLock lock(mutex_);
    if (failure_.ok()) {
      on_failure_ = std::move(callback);
      return;
    }
  }
  callback();
}

absl::Status ModelHost::WaitForRoom(const Engine& engine) {
  MutexLock lock(mutex_);
  while (engine.Stats().retiring_versions >= options_.engine.max_retiring_versions) {
    changed_.WaitFor(mutex_, kReapInterval);
    if (stopping_) return absl::CancelledError("the model host stopped");
  }
  return absl::OkStatus();
}

void ModelHost::SetServing(Serving serving) {
  MutexLock lock(mutex_);
  if (serving_.engine != nullptr && serving_.engine != serving.engine) {
    retired_.push_back(serving_.engine);
  }
  serving_ = std::move(serving);
}

void ModelHost::Settle(const Work& work, const absl::Status& status) {
  MutexLock lock(mutex_);
  settled_number_ = work.number;
  settled_status_ = status;
  if (status.ok()) {
    load_error_.clear();
    load_error_version_.clear();
    retry_wait_ = options_.retry_after;
  } else {
    load_error_ = std::string(status.message());
    load_error_version_ = work.desired->weights_version();
    retry_at_ = clock_.MonotonicNow() + retry_wait_;
    MF_LOG(WARNING) << work.desired->deployment() << ": loading " << load_error_version_ << " from "
                    << work.desired->path() << " failed: " << load_error_ << "; "
                    << (serving_.model == nullptr
                            ? "nothing is served"
                            : serving_.model->weights_version + " is served on")
                    << (retry_wait_ == absl::InfiniteDuration()
                            ? ""
                            : ", trying again in " + absl::FormatDuration(retry_wait_));
    retry_wait_ = std::min(retry_wait_ * 2, options_.retry_at_most);
  }
  changed_.SignalAll();
}

// An engine may only go on this thread: its own would wait for itself, and a gRPC thread for a
// step.
void ModelHost::ReapRetired() {
  std::vector<std::shared_ptr<Engine>> gone;
  {
    MutexLock lock(mutex_);
    for (auto it = retired_.begin(); it != retired_.end();) {
      if (it->use_count() == 1 && Idle(**it)) {
        gone.push_back(std::move(*it));
        it = retired_.erase(it);
      } else {
        ++it;
      }
    }
  }
}

absl::Status ModelHost::Drain(absl::Duration timeout) {
  std::vector<std::shared_ptr<Engine>> engines;
  {
    MutexLock lock(mutex_);
    draining_ = true;
    engines = retired_;
    if (serving_.engine != nullptr) engines.push_back(serving_.engine);
  }
  if (options_.on_change) options_.on_change();
  const absl::Duration deadline = clock_.MonotonicNow() + timeout;
  absl::Status result;
  for (const auto& engine : engines) {
    result.Update(engine->Drain(std::max(deadline - clock_.MonotonicNow(), absl::ZeroDuration())));
  }
  return result;
}

void ModelHost::Stop() {
  std::vector<std::shared_ptr<Engine>> engines;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    engines = retired_;
    if (serving_.engine != nullptr) engines.push_back(serving_.engine);
    changed_.SignalAll();
  }
  for (const auto& engine : engines) engine->Stop();
  MutexLock lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

}  // namespace mindforge
