#include "worker/agent/caretaker.h"

#include <algorithm>
#include <utility>

#include "common/logging.h"
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

Caretaker::Caretaker(std::function<void()> on_done)
    : on_done_(std::move(on_done)), thread_([this] { Run(); }) {}

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
  for (const std::string& path : response.verify_paths()) Queue({false, path});
  for (const std::string& path : response.delete_paths()) {
    if (HasCheckpointName(path)) {
      Queue({true, path});
    } else if (refused_.size() < kMaxTasks && refused_.insert(path).second) {
      MF_LOG(ERROR) << "the coordinator asks to delete " << path
                    << ", which is no checkpoint's folder; it stays";
    }
  }
}

void Caretaker::Fill(v1::SynchronizeRequest* request) const {
  MutexLock lock(mutex_);
  for (const v1::VerifyResult& result : verified_) *request->add_verify_results() = result;
  for (const std::string& path : deleted_) request->add_deleted_paths(path);
}

void Caretaker::Delivered(const v1::SynchronizeRequest& request) {
  MutexLock lock(mutex_);
  for (const v1::VerifyResult& result : request.verify_results()) {
    known_.erase({false, result.path()});
    std::erase_if(verified_, [&](const auto& mine) { return mine.path() == result.path(); });
  }
  for (const std::string& path : request.deleted_paths()) {
    known_.erase({true, path});
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
    Do(task);
    on_done_();
  }
}

void Caretaker::Do(const Task& task) {
  if (!task.is_deletion) {
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
