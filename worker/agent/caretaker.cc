#include "worker/agent/caretaker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/logging.h"
#include "worker/agent/found_checkpoint.h"
#include "worker/formats/checkpoint.h"
#include "worker/formats/checkpoint_names.h"
#include "worker/formats/storage_marker.h"

namespace mindforge {
namespace {

constexpr size_t kMaxTasks = 10'000;
// What the coordinator takes in one call.
constexpr int kMaxTold = 1000;

bool HasCheckpointName(const std::string& path) {
  int64_t step = 0;
  int64_t generation = 0;
  const size_t slash = path.rfind('/');
  return path.starts_with('/') &&
         ParseCheckpointFolderName(path.substr(slash + 1), &step, &generation);
}

// The content is damaged, whoever reads it; anything else may be this worker's trouble, or today's.
bool IsDamage(const absl::Status& status) {
  return absl::IsDataLoss(status) || absl::IsInvalidArgument(status);
}

// OK: the folder is gone from the storage that it was on. A path that leads nowhere proves nothing
// where that storage is not mounted.
absl::Status DeleteCheckpoint(const std::string& path) {
  if (!PathExists(path)) {
    const std::string parent = path.substr(0, path.rfind('/'));
    if (const auto marker = ReadStorageMarker(parent); !marker.ok()) {
      return absl::Status(marker.status().code(),
                          absl::StrCat("neither it nor the marker of its storage is to be seen (",
                                       std::string(marker.status().message()),
                                       "); mount the storage of checkpoint.dir on this worker"));
    }
    return absl::OkStatus();
  }
  return RemoveCheckpoint(path);
}

}  // namespace

Caretaker::Caretaker(std::function<void()> on_done, Supervisor& supervisor)
    : on_done_(std::move(on_done)), supervisor_(supervisor), thread_([this] { Run(); }) {}

Caretaker::~Caretaker() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

void Caretaker::Queue(Task task) {
  // Beyond the limit nothing is lost: the coordinator asks again.
  if (known_.size() >= kMaxTasks || !known_.insert(task).second) return;
  if (task.kind == Task::Kind::kAdopt) ++adopting_;
  queue_.push_back(std::move(task));
  changed_.SignalAll();
}

void Caretaker::Accept(const v1::SynchronizeResponse& response) {
  MutexLock lock(mutex_);
  for (const std::string& path : response.verify_paths()) Queue({Task::Kind::kVerify, path, ""});
  asked_deletions_ = {response.delete_paths().begin(), response.delete_paths().end()};
  for (const std::string& path : response.delete_paths()) {
    if (HasCheckpointName(path)) {
      Queue({Task::Kind::kDelete, path, ""});
    } else if (refused_.size() < kMaxTasks && refused_.insert(path).second) {
      MF_LOG(ERROR) << "the coordinator asks to delete " << path
                    << ", which is no checkpoint's folder; it stays";
    }
  }
}

void Caretaker::Look(const std::string& job_id, const std::string& folder) {
  MutexLock lock(mutex_);
  Queue({Task::Kind::kLook, folder, job_id});
}

void Caretaker::Adopt(const std::map<std::string, std::string>& folders_by_job) {
  MutexLock lock(mutex_);
  for (const auto& [job_id, folder] : folders_by_job) {
    MF_LOG(INFO) << "job " << job_id << " ran here before: its newest sound checkpoint is looked "
                 << "for in " << folder;
    Queue({Task::Kind::kAdopt, folder, job_id});
  }
}

bool Caretaker::WaitUntilAdopted(absl::Duration timeout) {
  MutexLock lock(mutex_);
  return changed_.WaitFor(mutex_, timeout, [this] {
    mutex_.AssertHeld();
    return adopting_ == 0;
  });
}

void Caretaker::Fill(v1::SynchronizeRequest* request) const {
  MutexLock lock(mutex_);
  for (const v1::VerifyResult& result : verified_) {
    if (request->verify_results_size() == kMaxTold) break;
    *request->add_verify_results() = result;
  }
  for (const std::string& path : deleted_) {
    if (request->deleted_paths_size() == kMaxTold) break;
    request->add_deleted_paths(path);
  }
}

void Caretaker::Delivered(const v1::SynchronizeRequest& request) {
  MutexLock lock(mutex_);
  for (const v1::VerifyResult& result : request.verify_results()) {
    known_.erase({Task::Kind::kVerify, result.path(), ""});
    std::erase_if(verified_, [&](const auto& mine) { return mine.path() == result.path(); });
  }
  for (const std::string& path : request.deleted_paths()) {
    known_.erase({Task::Kind::kDelete, path, ""});
    std::erase(deleted_, path);
  }
}

absl::Duration Caretaker::PutOff(const Task& task) {
  Retry& retry = retries_[task];
  retry.pause =
      retry.pause == absl::ZeroDuration() ? kFirstRetry : std::min(2 * retry.pause, kLongestRetry);
  retry.at = clock_.MonotonicNow() + retry.pause;
  return retry.pause;
}

absl::Duration Caretaker::QueueRetries() {
  const absl::Duration now = clock_.MonotonicNow();
  absl::Duration next = absl::InfiniteDuration();
  for (auto it = retries_.begin(); it != retries_.end();) {
    const Task task = it->first;
    Retry& retry = it->second;
    ++it;
    if (task.kind != Task::Kind::kDelete || retry.at == absl::InfiniteDuration()) continue;
    if (retry.at > now) {
      next = std::min(next, retry.at);
    } else if (asked_deletions_.count(task.path) == 0) {
      known_.erase(task);  // another worker has done it by now
      retries_.erase(task);
    } else {
      retry.at = absl::InfiniteDuration();  // until it has failed again
      queue_.push_back(task);
    }
  }
  return next;
}

void Caretaker::Run() {
  while (true) {
    Task task;
    {
      MutexLock lock(mutex_);
      while (true) {
        const absl::Duration next = QueueRetries();
        if (stopping_) return;
        if (!queue_.empty()) break;
        changed_.WaitFor(mutex_, next - clock_.MonotonicNow());
      }
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    Do(task);
  }
}

void Caretaker::Do(const Task& task) {
  switch (task.kind) {
    case Task::Kind::kVerify:
      return Verify(task.path);
    case Task::Kind::kDelete:
      return Delete(task);
    case Task::Kind::kLook:
    case Task::Kind::kAdopt:
      return LookFor(task);
  }
}

void Caretaker::Verify(const std::string& path) {
  const absl::Status status = VerifyCheckpoint(path);
  v1::VerifyResult result;
  result.set_path(path);
  result.set_valid(status.ok());
  // One that a trainer found damaged and renamed is not there; that says enough of its content.
  const bool set_aside = absl::IsNotFound(status) && WasQuarantined(path);
  result.set_unreadable(!status.ok() && !IsDamage(status) && !set_aside);
  result.set_detail(set_aside ? "it read back wrong before and was set aside beside its place, as "
                                "quarantined-…"
                              : std::string(status.message()));
  {
    MutexLock lock(mutex_);
    verified_.push_back(std::move(result));
  }
  on_done_();
}

void Caretaker::Delete(const Task& task) {
  const absl::Status status = DeleteCheckpoint(task.path);
  {
    MutexLock lock(mutex_);
    if (!status.ok()) {
      // Kept, so that the coordinator's asking again does not start it again.
      const absl::Duration pause = PutOff(task);
      MF_LOG(WARNING) << "cannot delete " << task.path << ": " << status << "; tried again in "
                      << absl::FormatDuration(pause);
      return;
    }
    retries_.erase(task);
    deleted_.push_back(task.path);
  }
  on_done_();
}

bool Caretaker::MayRead(const Task& search, const std::string& path) const {
  if (stopping_ || refused_.count(path) > 0) return false;
  const auto put_off = retries_.find({search.kind, path, search.job_id});
  return put_off == retries_.end() || clock_.MonotonicNow() >= put_off->second.at;
}

void Caretaker::LookFor(const Task& task) {
  const bool adopting = task.kind == Task::Kind::kAdopt;
  bool done = false;
  bool sure = true;  // that there is none, unless one is found
  const auto wanted = [&](const CheckpointFolder& folder) {
    if (done || (!adopting && !supervisor_.IsNewCheckpoint(task.job_id, folder.step))) return false;
    MutexLock lock(mutex_);
    sure = sure && !stopping_;
    return MayRead(task, folder.path);
  };
  const auto take = [&](const CheckpointFolder& folder, const auto& found) {
    if (found.ok()) {
      done = true;  // older ones would not be gone on from
      return supervisor_.Found(task.job_id, *found);
    }
    MutexLock lock(mutex_);
    MF_LOG(WARNING) << folder.path << " is not taken up: " << found.status();
    if (IsDamage(found.status()) || absl::IsFailedPrecondition(found.status())) {
      if (refused_.size() < kMaxTasks) refused_.insert(folder.path);
      return;
    }
    sure = false;
    if (!adopting && retries_.size() < kMaxTasks) {
      PutOff({task.kind, folder.path, task.job_id});
    }
  };
  const absl::Status listed = FindCheckpoints(task.job_id, task.path, wanted, take);
  if (adopting && listed.ok() && sure && !done) supervisor_.NothingFound(task.job_id);
  MutexLock lock(mutex_);
  if (!listed.ok() && unlisted_.insert(task.path).second) {
    MF_LOG(WARNING) << "cannot look for checkpoints in " << task.path << ": " << listed;
  }
  if (listed.ok()) unlisted_.erase(task.path);
  known_.erase(task);
  if (adopting) --adopting_;
  changed_.SignalAll();
}

}  // namespace mindforge
