#include "coordinator/shell.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error_details.h"
#include "common/log_writer.h"
#include "common/logging.h"
#include "coordinator/scheduler/step.h"

namespace mindforge {
namespace {

constexpr char kInferenceKey[] = "inference";

std::string JobKey(const JobId& id) { return absl::StrCat("job ", id.value()); }
std::string WorkerKey(const WorkerId& id) { return absl::StrCat("worker ", id.value()); }

// Calls of people may be refused when the disk cannot follow; agents' and the timer's may not.
bool IsCommand(const sched::Event& event) {
  return event.index() <= sched::Event(sched::DeleteDeployment{}).index();
}

void EndProcess(const absl::Status& status) {
  MF_LOG(ERROR) << "the store cannot be written, so nothing more can be promised; the coordinator "
                   "ends: "
                << status.ToString();
  FlushLog();
  _exit(1);
}

// Whether what is to be served, or the words for why it is not, may have changed.
bool TouchesServing(const sched::Outcome& outcome) {
  const sched::Changes& changes = outcome.changes;
  return outcome.touched_inference || !changes.deployments.empty() ||
         !changes.deleted_deployments.empty() || !changes.checkpoints.empty() ||
         !changes.deleted_checkpoints.empty() || !changes.jobs.empty() ||
         !changes.deleted_jobs.empty();
}

std::vector<std::string> KeysOf(const sched::Outcome& outcome) {
  std::vector<std::string> keys;
  for (const JobId& id : outcome.touched_jobs) keys.push_back(JobKey(id));
  for (const WorkerId& id : outcome.touched_workers) keys.push_back(WorkerKey(id));
  if (TouchesServing(outcome)) keys.push_back(kInferenceKey);
  return keys;
}

}  // namespace

Shell::Shell(sched::Snapshot snapshot, Store& store, const Clock& clock,
             CoordinatorMetrics* metrics, Options options)
    : store_(store),
      clock_(clock),
      metrics_(metrics),
      options_(std::move(options)),
      job_watches_(std::make_shared<Subscriptions>(options_.max_job_watches)),
      other_watches_(std::make_shared<Subscriptions>(options_.max_other_watches)),
      reader_(options_.max_reads) {
  Committer::Options committer;
  committer.on_failure = options_.on_failure ? options_.on_failure : EndProcess;
  if (metrics_ != nullptr) {
    committer.on_commit = [this](absl::Duration took) { metrics_->ObserveCommit(took); };
  }
  committer_ = std::make_unique<Committer>(store_, clock_, std::move(committer));
  {
    MutexLock lock(mutex_);
    const sched::Now now = ReadClock();
    last_alive_ = now.mono;
    state_ = sched::LoadState(std::move(snapshot), options_.settings, now);
    Commit(StepLocked(sched::Tick{}), nullptr);
  }
}

void Shell::StartTimer(std::function<void()> also) {
  timer_ = std::thread([this, also = std::move(also)] { TimerLoop(also); });
  pthread_setname_np(timer_.native_handle(), "timer");
}

Shell::~Shell() { Stop(); }

void Shell::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  timer_changed_.SignalAll();
  if (timer_.joinable()) timer_.join();
  // Replies may read and reads may look again, which is said by the committer.
  for (int turn = 0; turn < 2; ++turn) {
    committer_->Drain();
    reader_.Drain();
  }
}

sched::Now Shell::ReadClock() {
  // The clock of another thread may have been read a moment later than ours.
  last_now_ = std::max(last_now_, clock_.MonotonicNow());
  return {clock_.Now(), last_now_};
}

sched::Outcome Shell::StepLocked(const sched::Event& event) {
  const sched::Now now = ReadClock();
  const absl::Duration due_before = state_.next_expiry;
  const bool stalled = now.mono - last_alive_ > options_.stall ||
                       now.mono - committer_->BusySince() > options_.stall;
  last_alive_ = now.mono;
  const bool began = stalled && !stalled_;
  stalled_ = stalled;
  if (stalled) Commit(Decide(now, sched::Stalled{began}), nullptr);
  sched::Outcome outcome = Decide(now, event);
  if (state_.next_expiry < due_before) timer_changed_.Signal();
  return outcome;
}

sched::Outcome Shell::Decide(const sched::Now& now, const sched::Event& event) {
  sched::Outcome outcome = sched::Step(state_, now, event);
  if (metrics_ != nullptr) {
    metrics_->ObserveDecision(clock_.MonotonicNow() - now.mono);
    metrics_->Take(outcome);
  }
  for (const std::string& line : outcome.log) MF_LOG(INFO) << line;
  return outcome;
}

void Shell::Commit(sched::Outcome outcome, Reply reply) {
  std::vector<std::string> keys = KeysOf(outcome);
  if (outcome.changes.empty() && keys.empty() && reply == nullptr) return;
  std::vector<JobId> jobs(outcome.touched_jobs.begin(), outcome.touched_jobs.end());
  committer_->Enqueue(
      std::move(outcome.changes),
      [this, jobs = std::move(jobs), keys = std::move(keys), reply = std::move(reply)] {
        if (options_.on_jobs_changed) options_.on_jobs_changed(jobs);
        if (!keys.empty()) {
          job_watches_->Wake(keys);
          other_watches_->Wake(keys);
        }
        if (reply) reply();
      });
}

void Shell::Do(const sched::Event& event, OnOutcome then) {
  Reply now;
  {
    MutexLock lock(mutex_);
    if (IsCommand(event) && committer_->Full()) {
      sched::Outcome refused;
      refused.status = Error(absl::StatusCode::kResourceExhausted, "STORE_BUSY",
                             "the coordinator's disk cannot follow: try again in a moment");
      now = then(refused, state_);
    } else {
      sched::Outcome outcome = StepLocked(event);
      Reply reply = then(outcome, state_);
      const bool nothing = outcome.changes.empty() && KeysOf(outcome).empty();
      if (nothing && committer_->Idle()) {
        now = std::move(reply);
      } else {
        Commit(std::move(outcome), std::move(reply));
      }
    }
  }
  if (now) now();
}

void Shell::View(OnState then) {
  Reply now;
  {
    MutexLock lock(mutex_);
    Reply reply = then(state_, ReadClock());
    if (committer_->Idle()) {
      now = std::move(reply);
    } else {
      committer_->Enqueue({}, std::move(reply));
    }
  }
  if (now) now();
}

void Shell::DoNow(const sched::Event& event, const std::function<void(const sched::State&)>& look) {
  MutexLock lock(mutex_);
  sched::Outcome outcome = StepLocked(event);
  look(state_);
  Commit(std::move(outcome), nullptr);
}

void Shell::Peek(const std::function<void(const sched::State&, const sched::Now&)>& look) {
  MutexLock lock(mutex_);
  look(state_, ReadClock());
}

std::unique_ptr<Subscription> Shell::Watch(const JobId& job, std::function<void()> wake) {
  return job_watches_->Add(JobKey(job), std::move(wake));
}

std::unique_ptr<Subscription> Shell::Watch(const WorkerId& worker, std::function<void()> wake) {
  return other_watches_->Add(WorkerKey(worker), std::move(wake));
}

std::unique_ptr<Subscription> Shell::WatchInference(std::function<void()> wake) {
  return other_watches_->Add(kInferenceKey, std::move(wake));
}

bool Shell::Read(std::function<void()> read) { return reader_.Enqueue(std::move(read)); }

absl::StatusOr<std::vector<StoredProgress>> Shell::ReadProgress(const JobId& job,
                                                                int64_t after_step, int limit) {
  return store_.ReadProgress(job, after_step, limit);
}

absl::StatusOr<std::vector<StoredLog>> Shell::ReadLogs(const JobId& job, int64_t after,
                                                       std::optional<int> rank, int limit) {
  return store_.ReadLogs(job, after, rank, limit);
}

absl::StatusOr<std::vector<sched::JobEvent>> Shell::ReadEvents(const JobId& job) {
  return store_.ReadEvents(job);
}

void Shell::RunTimer() {
  MutexLock lock(mutex_);
  const absl::Duration mono = clock_.MonotonicNow();
  const bool stalled =
      mono - last_alive_ > options_.stall || mono - committer_->BusySince() > options_.stall;
  if (stalled || mono >= state_.next_expiry) {
    Commit(StepLocked(sched::Tick{}), nullptr);
  } else {
    last_alive_ = std::max(last_alive_, mono);
  }
}

void Shell::TimerLoop(const std::function<void()>& also) {
  while (true) {
    {
      MutexLock lock(mutex_);
      const absl::Duration wait = std::clamp(state_.next_expiry - clock_.MonotonicNow(),
                                             absl::Milliseconds(1), options_.timer_period);
      if (!stopping_) timer_changed_.WaitFor(mutex_, wait);
      if (stopping_) return;
    }
    RunTimer();
    if (also) also();
  }
}

}  // namespace mindforge
