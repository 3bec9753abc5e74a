#include "coordinator/tracking/tracker.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/unique_fd.h"
#include "mindforge/v1/types.pb.h"

namespace mindforge {
namespace {

constexpr int kRowsAtOnce = 512;
// Says up to where an ended job's file goes, so that a start need not look into it while that is
// all there is: an agent that was away may bring more after the end.
constexpr char kComplete[] = ".complete";
constexpr size_t kMaxCompleteBytes = 64;

std::string CompleteUpTo(int64_t step, int64_t milestone) {
  return absl::StrCat(step, " ", milestone, "\n");
}

bool IsComplete(const TrackedJob& job, const std::string& folder) {
  if (!job.ended) return false;
  const auto mark = ReadFile(JoinPath(folder, kComplete), kMaxCompleteBytes);
  return mark.ok() && *mark == CompleteUpTo(job.last_step, job.last_milestone);
}

std::string FileName(const TrackedJob& job) {
  return absl::StrCat("events.out.tfevents.", absl::ToUnixSeconds(job.submitted_at), ".",
                      job.id.value());
}

std::string FrameOf(const StoredProgress& stored, absl::Time fallback) {
  v1::ProgressRecord record;
  record.ParseFromString(stored.bytes);
  const auto& finished = record.finished_at();
  const absl::Time at = record.has_finished_at() ? absl::FromUnixSeconds(finished.seconds()) +
                                                       absl::Nanoseconds(finished.nanos())
                                                 : fallback;
  std::vector<std::pair<std::string_view, double>> values = {
      {"train/loss", record.loss()},
      {"train/learning_rate", record.learning_rate()},
      {"train/grad_norm", record.gradient_norm()},
      {"train/tokens_per_second", record.tokens_per_second()}};
  if (record.has_loss_scale()) values.push_back({"train/loss_scale", record.loss_scale()});
  if (record.has_validation_loss()) values.push_back({"validation/loss", record.validation_loss()});
  return EncodeScalars(at, stored.step, values);
}

const char* TagOf(sched::MilestoneKind kind) {
  switch (kind) {
    case sched::MilestoneKind::kCheckpoint:
      return "job/checkpoints";
    case sched::MilestoneKind::kRestart:
      return "job/restarts";
    case sched::MilestoneKind::kWorldSize:
      return "job/world_size";
  }
  return "job/events";
}

// Writes `bytes` behind the first `keep` of the file.
absl::Status WriteBehind(const std::string& path, int64_t keep, std::string_view bytes) {
  const int flags = O_WRONLY | O_CLOEXEC | O_APPEND | (keep == 0 ? O_CREAT : 0);
  UniqueFd fd(::open(path.c_str(), flags, 0644));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open", path);
  if (::ftruncate(fd.get(), keep) != 0) return ErrnoStatus(errno, "cannot truncate", path);
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd.get(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, "cannot write", path);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

// The file is durable before the mark, which need not be: without it a start looks again.
absl::Status MarkComplete(const std::string& folder, const std::string& file,
                          const EventFileEnd& end) {
  RETURN_IF_ERROR(SyncFile(file));
  return WriteBehind(JoinPath(folder, kComplete), 0, CompleteUpTo(end.last_step, end.last_number));
}

}  // namespace

Tracker::~Tracker() { Stop(); }

void Tracker::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.SignalAll();
  if (thread_.joinable()) thread_.join();
}

void Tracker::Start() {
  thread_ = std::thread([this] { Run(); });
  pthread_setname_np(thread_.native_handle(), "tracking");
}

void Tracker::Changed(const std::vector<JobId>& jobs) {
  if (jobs.empty()) return;
  MutexLock lock(mutex_);
  waiting_.insert(jobs.begin(), jobs.end());
  if (waiting_.size() > options_.max_waiting) {
    waiting_.clear();
    all_ = true;
  }
  changed_.Signal();
}

bool Tracker::Stopping() const {
  MutexLock lock(mutex_);
  return stopping_;
}

void Tracker::Run() {
  while (!Stopping()) {
    CatchUp();
    MutexLock lock(mutex_);
    changed_.WaitFor(mutex_, options_.pause, [&] {
      mutex_.AssertHeld();
      return stopping_;
    });
    changed_.WaitFor(mutex_, try_again_.empty() ? absl::Hours(1) : options_.pause, [&] {
      mutex_.AssertHeld();
      return stopping_ || all_ || !waiting_.empty();
    });
  }
}

std::set<JobId> Tracker::TakeWaiting() {
  std::set<JobId> ids;
  bool all = false;
  {
    MutexLock lock(mutex_);
    ids.swap(waiting_);
    all = std::exchange(all_, false);
  }
  if (all) {
    for (const TrackedJob& job : jobs_.All()) {
      if (!IsComplete(job, FolderOf(job))) ids.insert(job.id);
    }
  }
  const absl::Duration now = clock_.MonotonicNow();
  for (auto it = try_again_.begin(); it != try_again_.end();) {
    if (it->second <= now) ids.insert(it->first);
    it = it->second <= now ? try_again_.erase(it) : std::next(it);
  }
  return ids;
}

void Tracker::CatchUp() {
  for (const JobId& id : TakeWaiting()) {
    if (Stopping()) return;  // the next start looks at all
    if (const std::optional<TrackedJob> job = jobs_.Find(id)) {
      Update(*job);
    } else {
      Remove(id);
    }
  }
}

void Tracker::Update(const TrackedJob& job) {
  Cursor& cursor = cursors_[job.id];
  bool complete = false;
  const absl::Status status = Write(job, cursor, &complete);
  if (!status.ok()) {
    if (failing_.insert(job.id).second) {
      MF_LOG(WARNING) << "job " << job.id << " (" << job.name
                      << "): its TensorBoard file is behind and is tried again: " << status;
    }
    try_again_[job.id] = clock_.MonotonicNow() + options_.retry;
    cursors_.erase(job.id);  // to be read back: it may end anywhere
    return;
  }
  failing_.erase(job.id);
  if (cursor.gap_since) try_again_[job.id] = *cursor.gap_since + options_.gap_patience;
  if (complete) cursors_.erase(job.id);
}

std::string Tracker::FolderOf(const TrackedJob& job) const {
  const std::string name = FileName(job);
  const std::string by_name = JoinPath(options_.folder, job.name);
  const std::string by_id = JoinPath(options_.folder, job.id.value());
  const bool id_is_mine = PathExists(JoinPath(by_id, name));
  if (id_is_mine || PathExists(JoinPath(by_name, name))) return id_is_mine ? by_id : by_name;
  const auto others = ListDir(by_name);  // NOT_FOUND, or empty after a crash: nobody has it
  const bool is_free = others.ok() ? others->empty() : absl::IsNotFound(others.status());
  return is_free ? by_name : by_id;
}

absl::Status Tracker::Write(const TrackedJob& job, Cursor& cursor, bool* complete) {
  struct stat info = {};
  const bool as_left = !cursor.path.empty() && ::stat(cursor.path.c_str(), &info) == 0 &&
                       info.st_size == cursor.end.bytes;
  if (!as_left) {
    cursor.folder = FolderOf(job);
    cursor.path = JoinPath(cursor.folder, FileName(job));
    absl::StatusOr<EventFileEnd> end = ScanEventFile(cursor.path);
    if (absl::IsNotFound(end.status())) end = EventFileEnd();
    RETURN_IF_ERROR(end);
    cursor.end = *end;
  }
  while (!Stopping()) {
    const EventFileEnd before = cursor.end;
    ASSIGN_OR_RETURN(const std::string frames, NextFrames(job, cursor));
    if (frames.empty()) break;
    if (before.bytes == 0) RETURN_IF_ERROR(MakeDirs(cursor.folder));
    // What lies behind the last whole frame is a torn tail.
    RETURN_IF_ERROR(WriteBehind(cursor.path, before.bytes, frames));
    cursor.end.bytes = before.bytes + static_cast<int64_t>(frames.size());
  }
  *complete = job.ended && !Stopping();
  if (!*complete || cursor.end.bytes == 0) return absl::OkStatus();
  return MarkComplete(cursor.folder, cursor.path, cursor.end);
}

absl::StatusOr<std::string> Tracker::NextFrames(const TrackedJob& job, Cursor& cursor) {
  ASSIGN_OR_RETURN(const std::vector<sched::Milestone> marks,
                   store_.ReadMilestones(job.id, cursor.end.last_number, kRowsAtOnce));
  ASSIGN_OR_RETURN(const std::vector<StoredProgress> records,
                   store_.ReadProgress(job.id, cursor.end.last_step, kRowsAtOnce));
  std::string frames;
  for (const sched::Milestone& mark : marks) {
    frames += EncodeText(mark.at, mark.step, TagOf(mark.kind), mark.text, mark.number);
    cursor.end.last_number = mark.number;
  }
  for (const StoredProgress& record : records) {
    if (!MayWrite(job, cursor, record.step)) break;
    frames += FrameOf(record, job.submitted_at);
    cursor.end.last_step = record.step;
  }
  if (cursor.end.bytes == 0 && !frames.empty()) {
    frames.insert(0, EncodeFileVersion(job.submitted_at));
  }
  return frames;
}

bool Tracker::MayWrite(const TrackedJob& job, Cursor& cursor, int64_t step) {
  const absl::Duration now = clock_.MonotonicNow();
  if (step == cursor.end.last_step + 1) {
    cursor.gap_since.reset();
    return true;
  }
  if (!cursor.gap_since) cursor.gap_since = now;
  if (!job.ended && now < *cursor.gap_since + options_.gap_patience) return false;
  cursor.gap_since.reset();
  return true;
}

void Tracker::Remove(const JobId& job) {
  cursors_.erase(job);
  try_again_.erase(job);
  failing_.erase(job);
  const auto folders = ListDir(options_.folder);
  if (!folders.ok()) return;
  for (const std::string& folder : *folders) {
    const std::string path = JoinPath(options_.folder, folder);
    const auto names = ListDir(path);
    if (!names.ok()) continue;
    const bool mine = std::any_of(names->begin(), names->end(), [&](const std::string& name) {
      return absl::StartsWith(name, "events.out.tfevents.") &&
             absl::EndsWith(name, absl::StrCat(".", job.value()));
    });
    if (!mine) continue;
    if (const absl::Status status = RemoveTree(path); !status.ok()) {
      MF_LOG(WARNING) << "the TensorBoard files of the deleted job " << job << " stay: " << status;
    }
  }
}

}  // namespace mindforge
