#include "worker/agent/caretaker.h"

#include <algorithm>
#include <utility>

#include "common/logging.h"
#include "worker/agent/found_checkpoint.h"
#include "worker/formats/checkpoint.h"

namespace mindforge {
namespace {

constexpr size_t kMaxTasks = 10'000;

bool HasCheckpointName(const std::string& path) {
  int64_t step = 0;
  int64_t generation = 0;
  const size_t slash = path.rfind('/');
  return path.starts_with('/') &&
         ParseCheckpointFolderName(path.substr(slash + 1), &step, &generation);
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
  queue_.push_back(std::move(task));
  changed_.SignalAll();
}

void Caretaker::Accept(const v1::SynchronizeResponse& response) {
  MutexLock lock(mutex_);
  for (const std::string& path : response.verify_paths()) Queue({Task::Kind::kVerify, path, ""});
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

void Caretaker::Fill(v1::SynchronizeRequest* request) const {
  MutexLock lock(mutex_);
  for (const v1::VerifyResult& result : verified_) *request->add_verify_results() = result;
  for (const std::string& path : deleted_) request->add_deleted_paths(path);
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

void Caretaker::Run() {
  while (true) {
    Task task;
    {
      MutexLock lock(mutex_);
      while (!stopping_ && queue_.empty()) changed_.Wait(mutex_);
      if (stopping_) return;
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    if (task.kind == Task::Kind::kLook) {
      LookFor(task);
      continue;
    }
    Do(task);
    on_done_();
  }
}

void Caretaker::LookFor(const Task& task) {
  const auto wanted = [&](const std::string& path) {
    MutexLock lock(mutex_);
    return refused_.count(path) == 0 && supervisor_.IsNewCheckpoint(task.job_id, path);
  };
  FindCheckpoints(task.job_id, task.path, wanted, [&](const std::string& path, const auto& found) {
    if (found.ok()) return supervisor_.Found(task.job_id, *found);
    MF_LOG(WARNING) << path << " is not taken up: " << found.status();
    MutexLock lock(mutex_);
    if (refused_.size() < kMaxTasks) refused_.insert(path);
  });
  MutexLock lock(mutex_);
  known_.erase(task);
}

void Caretaker::Do(const Task& task) {
  if (task.kind == Task::Kind::kVerify) {
    const absl::Status status = VerifyCheckpoint(task.path);
    v1::VerifyResult result;
    result.set_path(task.path);
    result.set_valid(status.ok());
    result.set_detail(std::string(status.message()));
    MutexLock lock(mutex_);
    verified_.push_back(std::move(result));
    return;
  }
  const absl::Status status = RemoveCheckpoint(task.path);
  MutexLock lock(mutex_);
  if (status.ok()) {
    deleted_.push_back(task.path);
  } else {
    // Forgotten here, so that the coordinator's next asking is another try.
    MF_LOG(WARNING) << "cannot delete " << task.path << ": " << status;
    known_.erase(task);
  }
}

}  // namespace mindforge
