#include "coordinator/scheduler/desired.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "coordinator/scheduler/checkpoints.h"
#include "coordinator/scheduler/deployments.h"

namespace mindforge::sched {
namespace {

// Trainers that should be there: of a job that trains or stops, and of a finished one until they
// have exited by themselves.
bool ShouldRun(const Job& job, int rank) {
  if (job.live[rank].gone) return false;
  return job.active() || job.state == JobState::kSucceeded;
}

// Inference workers have not all told yet what they serve: no folder is deleted under them.
bool MayDelete(const State& state, const Now& now) {
  return state.deployments.empty() || now.mono >= state.started + 2 * state.settings.worker_lease;
}

// True when weights from a folder of that name, "step-100.g2", are served. Another job's folder may
// have the same name: then this one only stays longer.
bool IsServed(const std::set<std::string>& served, const std::string& path) {
  const std::string version = path.substr(path.rfind('/') + 1) + "-";
  const auto first = served.lower_bound(version);
  return first != served.end() && absl::StartsWith(*first, version);
}

void AddFolderWork(const State& state, const Worker& worker, bool may_delete,
                   DesiredWorker& desired) {
  const std::set<std::string> served =
      may_delete && !state.deployments.empty() ? ServedVersions(state) : std::set<std::string>();
  for (const auto& [job, step] : state.folder_work) {
    const Checkpoint* checkpoint = FindCheckpoint(state, job, step);
    if (checkpoint == nullptr || CaretakerOf(state, job, checkpoint->worker) != worker.id) continue;
    if (checkpoint->state != CheckpointState::kDeleting) {
      if (desired.verify_paths.size() < kMaxPathsAtOnce) {
        desired.verify_paths.push_back(checkpoint->path);
      }
    } else if (may_delete && desired.delete_paths.size() < kMaxPathsAtOnce &&
               served.count(WeightsVersion(*checkpoint)) == 0) {
      desired.delete_paths.push_back(checkpoint->path);
    }
  }
  for (const auto& [path, order] : state.delete_orders) {
    if (!may_delete || desired.delete_paths.size() >= kMaxPathsAtOnce) return;
    if (!IsServed(served, path) && CaretakerOf(state, order.job, order.worker) == worker.id) {
      desired.delete_paths.push_back(path);
    }
  }
}

}  // namespace

DesiredWorker DesiredFor(const State& state, const Worker& worker, const Now& now) {
  DesiredWorker desired;
  for (const Device& device : worker.devices) {
    DesiredDevice order;
    order.device = &device;
    const auto holder = state.holders.find({worker.id, device.id});
    if (holder != state.holders.end()) {
      const Job& job = state.jobs.at(holder->second.first);
      const int rank = holder->second.second;
      if (ShouldRun(job, rank)) {
        order.job = &job;
        order.rank = rank;
        order.stop = job.active() && job.stop != StopPurpose::kNone;
      }
    }
    desired.devices.push_back(order);
  }
  AddFolderWork(state, worker, MayDelete(state, now), desired);
  return desired;
}

std::vector<const Checkpoint*> ResumePoints(const State& state, const JobId& job) {
  std::vector<const Checkpoint*> points;
  const auto of_job = state.checkpoints.find(job);
  if (of_job == state.checkpoints.end()) return points;
  for (auto it = of_job->second.rbegin(); it != of_job->second.rend(); ++it) {
    if (points.size() == kMaxResumePoints) break;
    if (it->second.state == CheckpointState::kCommitted) points.push_back(&it->second);
  }
  return points;
}

std::string CheckpointFolder(const Job& job) {
  const std::string& dir = job.wish.checkpoint_dir;
  return absl::StrCat(dir, !dir.empty() && dir.back() == '/' ? "" : "/", job.id.value());
}

}  // namespace mindforge::sched
