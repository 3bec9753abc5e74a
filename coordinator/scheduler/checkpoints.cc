#include "coordinator/scheduler/checkpoints.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduler/deployments.h"
#include "coordinator/scheduler/membership.h"
#include "coordinator/scheduler/retention.h"

namespace mindforge::sched {
namespace {

bool IsLive(const State& state, const WorkerId& id) {
  const auto it = state.workers.find(id);
  return it != state.workers.end() && !it->second.lost && it->second.reported;
}

void SaveCheckpoint(Context& c, const Checkpoint& checkpoint) {
  c.dirty_checkpoints.insert({checkpoint.job, checkpoint.step});
  if (NeedsFolderWork(checkpoint)) {
    c.state.folder_work.insert({checkpoint.job, checkpoint.step});
  } else {
    c.state.folder_work.erase({checkpoint.job, checkpoint.step});
  }
  c.state.reassign = true;  // deployments that follow the job look again
}

// Wakes whoever has to look after the folder.
void WakeCaretaker(Context& c, const JobId& job, const WorkerId& writer) {
  const WorkerId caretaker = CaretakerOf(c.state, job, writer);
  if (!caretaker.empty()) c.out.touched_workers.insert(caretaker);
}

bool IsRecordedPath(const State& state, const JobId& job, const std::string& path) {
  const auto of_job = state.checkpoints.find(job);
  if (of_job == state.checkpoints.end()) return false;
  return std::any_of(of_job->second.begin(), of_job->second.end(), [&](const auto& entry) {
    return entry.second.path == path && entry.second.state != CheckpointState::kDeleting;
  });
}

void OrderDeletion(Context& c, const JobId& job, const WorkerId& worker, const std::string& path) {
  if (IsRecordedPath(c.state, job, path)) return;
  DeleteOrder order{path, job, worker};
  c.out.changes.delete_orders.push_back(order);
  c.state.delete_orders[path] = std::move(order);
  WakeCaretaker(c, job, worker);
}

// The furthest that any generation after `generation` is known to have got; 0: nowhere.
int64_t ReachedAfter(const Job& job, Generation generation) {
  int64_t step = job.progress.generation > generation ? job.progress.step : 0;
  for (const MemberLive& live : job.live) step = std::max(step, live.step);
  return step;
}

// Empty: it may be committed. An older generation's holds the bits that its successors will come to
// as well; it spares them the way there unless they have got so far already. A job that has ended
// comes to nothing more: what an agent that was away brings late may be the best that is left of
// it.
std::string WhyRefused(const State& state, const Job& job, const CheckpointWritten& written) {
  if (state.delete_orders.count(written.path) > 0) return "its folder is being deleted";
  if (written.generation == job.generation) return "";
  const std::string older = absl::StrCat("it is of generation ", written.generation.value(),
                                         ", the newest is ", job.generation.value());
  if (written.generation > job.generation) return older;
  const Checkpoint* newest = NewestCheckpoint(state, job.id);
  if (newest != nullptr && newest->step >= written.step) {
    return absl::StrCat(older, " and has the checkpoint of step ", newest->step);
  }
  if (job.final()) return "";
  const int64_t reached = ReachedAfter(job, written.generation);
  return reached < written.step ? "" : absl::StrCat(older, " and is at step ", reached);
}

Checkpoint MakeCheckpoint(const Context& c, const JobId& job, const WorkerId& worker,
                          const CheckpointWritten& written) {
  Checkpoint checkpoint;
  checkpoint.job = job;
  checkpoint.step = written.step;
  checkpoint.generation = written.generation;
  checkpoint.path = written.path;
  checkpoint.size_bytes = written.size_bytes;
  checkpoint.loss = written.loss;
  checkpoint.validation_loss = written.validation_loss;
  checkpoint.committed_at = c.now.wall;
  checkpoint.manifest_digest = written.manifest_digest;
  checkpoint.final = written.final;
  checkpoint.worker = worker;
  return checkpoint;
}

void SetCorrupt(Context& c, Job& job, Checkpoint& checkpoint, const std::string& detail) {
  if (checkpoint.state != CheckpointState::kCommitted) return;
  checkpoint.state = CheckpointState::kCorrupt;
  checkpoint.verification_detail = detail;
  SaveCheckpoint(c, checkpoint);
  c.out.log.push_back(absl::StrCat("job ", job.id.value(), " (", job.wish.name,
                                   "): the checkpoint of step ", checkpoint.step,
                                   " is corrupt and is not used again: ", detail));
  Save(c, job);
  WakeMembers(c, job);
}

}  // namespace

WorkerId CaretakerOf(const State& state, const JobId& job, const WorkerId& writer) {
  if (IsLive(state, writer)) return writer;
  const auto found = state.jobs.find(job);
  if (found != state.jobs.end()) {
    for (const MemberPlace& member : found->second.members) {
      if (IsLive(state, member.worker)) return member.worker;
    }
  }
  for (const auto& [id, worker] : state.workers) {
    if (IsLive(state, id)) return id;
  }
  return WorkerId();
}

void Commit(Context& c, const JobId& id, const WorkerId& worker, const CheckpointWritten& written) {
  const auto found = c.state.jobs.find(id);
  if (found == c.state.jobs.end()) return;  // deleted: its folders stay where they are
  Job& job = found->second;
  auto& of_job = c.state.checkpoints[id];
  const auto known = of_job.find(written.step);
  if (known != of_job.end() && known->second.path == written.path &&
      known->second.generation == written.generation) {
    // Reported again; who found the folder did not know that it is the last, its trainer does.
    if (!written.final || known->second.final) return;
    // Corrupt by now: it is nobody's result, the last steps are done again.
    if (known->second.state != CheckpointState::kCommitted) return;
    known->second.final = true;
    SaveCheckpoint(c, known->second);
    if (job.active()) Succeed(c, job);
    return;
  }
  if (const std::string refused = WhyRefused(c.state, job, written); !refused.empty()) {
    c.out.log.push_back(absl::StrCat("job ", id.value(), " (", job.wish.name,
                                     "): refused the checkpoint of step ", written.step, " in ",
                                     written.path, ": ", refused));
    return OrderDeletion(c, id, worker, written.path);
  }
  const std::string replaced = known == of_job.end() ? "" : known->second.path;
  const bool pinned = known != of_job.end() && known->second.pinned;
  Checkpoint& checkpoint = of_job[written.step];
  checkpoint = MakeCheckpoint(c, id, worker, written);
  checkpoint.pinned = pinned;  // a person pinned the step, whichever generation's it is
  SaveCheckpoint(c, checkpoint);
  if (!replaced.empty() && replaced != written.path) OrderDeletion(c, id, worker, replaced);
  Save(c, job);
  Mark(c, job, MilestoneKind::kCheckpoint, written.step,
       absl::StrCat("checkpoint of step ", written.step, " in ", written.path, ", loss ",
                    absl::SixDigits(written.loss)));
  // The success is in the same transaction: no restart finds a finished job unfinished.
  if (written.final && job.active()) Succeed(c, job);
  Retain(c, job);
}

void Adopt(Context& c, const JobId& id, const WorkerId& worker, const CheckpointWritten& written) {
  const auto job = c.state.jobs.find(id);
  if (job == c.state.jobs.end() || written.generation >= job->second.generation) return;
  if (WhyRefused(c.state, job->second, written).empty()) Commit(c, id, worker, written);
}

void MarkCorrupt(Context& c, const JobId& id, const CheckpointCorrupt& corruption) {
  const auto job = c.state.jobs.find(id);
  if (job == c.state.jobs.end()) return;
  auto& of_job = c.state.checkpoints[id];
  const auto found = of_job.find(corruption.step);
  if (found == of_job.end() || found->second.generation != corruption.generation) return;
  SetCorrupt(c, job->second, found->second, corruption.detail);
}

void Verified(Context& c, const std::string& worker_name, const VerifyResult& result) {
  const bool corrupt = !result.valid && !result.unreadable;
  for (auto& [id, of_job] : c.state.checkpoints) {
    for (auto& [step, checkpoint] : of_job) {
      if (checkpoint.path != result.path || checkpoint.verification != Verification::kPending) {
        continue;
      }
      checkpoint.verification = result.valid ? Verification::kValid
                                : corrupt    ? Verification::kCorrupt
                                             : Verification::kUnreadable;
      checkpoint.verification_detail =
          result.unreadable ? absl::StrCat("worker ", worker_name, ": ", result.detail)
                            : result.detail;
      checkpoint.verified_at = c.now.wall;
      SaveCheckpoint(c, checkpoint);
      if (corrupt) SetCorrupt(c, c.state.jobs.at(id), checkpoint, result.detail);
      return;
    }
  }
}

void Deleted(Context& c, const std::vector<std::string>& paths) {
  if (paths.empty()) return;
  const std::set<std::string> gone(paths.begin(), paths.end());
  for (const std::string& path : gone) {
    if (c.state.delete_orders.erase(path) > 0) c.out.changes.done_delete_orders.push_back(path);
  }
  for (auto& [id, of_job] : c.state.checkpoints) {
    for (auto it = of_job.begin(); it != of_job.end();) {
      const Checkpoint& checkpoint = it->second;
      if (checkpoint.state == CheckpointState::kDeleting && gone.count(checkpoint.path) > 0) {
        c.out.changes.deleted_checkpoints.push_back({id, checkpoint.step});
        c.dirty_checkpoints.erase({id, checkpoint.step});
        c.state.folder_work.erase({id, checkpoint.step});
        it = of_job.erase(it);
      } else {
        ++it;
      }
    }
  }
}

void Retain(Context& c, Job& job) {
  auto& of_job = c.state.checkpoints[job.id];
  const RetentionPolicy policy{job.wish.keep_last, job.wish.keep_every};
  for (const int64_t step : ExpiredCheckpoints(policy, of_job, ServedVersions(c.state))) {
    Checkpoint& checkpoint = of_job[step];
    checkpoint.state = CheckpointState::kDeleting;
    SaveCheckpoint(c, checkpoint);
    WakeCaretaker(c, job.id, checkpoint.worker);
  }
}

bool Change(Context& c, Job& job, const ChangeCheckpoint& command) {
  auto& of_job = c.state.checkpoints[job.id];
  const auto found = of_job.find(command.step);
  const auto refuse = [&](absl::StatusCode code, std::string_view reason, std::string message) {
    c.out.status = CommandError(code, reason, std::move(message));
    return false;
  };
  const std::string what =
      absl::StrCat("the checkpoint of step ", command.step, " of ", InWords(job));
  if (found == of_job.end() || found->second.state == CheckpointState::kDeleting) {
    return refuse(absl::StatusCode::kNotFound, "CHECKPOINT_NOT_FOUND",
                  absl::StrCat("there is no ", what, ": `mindforge checkpoint list ", job.wish.name,
                               "` shows all"));
  }
  Checkpoint& checkpoint = found->second;
  switch (command.action) {
    case CheckpointAction::kPin:
    case CheckpointAction::kUnpin:
      checkpoint.pinned = command.action == CheckpointAction::kPin;
      SaveCheckpoint(c, checkpoint);
      if (!checkpoint.pinned) Retain(c, job);
      return true;
    case CheckpointAction::kVerify:
      if (CaretakerOf(c.state, job.id, checkpoint.worker).empty()) {
        return refuse(absl::StatusCode::kUnavailable, "NO_WORKER",
                      absl::StrCat("no worker is there to read ", what,
                                   ": start a mindforge-worker that sees ", checkpoint.path));
      }
      checkpoint.verification = Verification::kPending;
      checkpoint.verification_detail.clear();
      SaveCheckpoint(c, checkpoint);
      WakeCaretaker(c, job.id, checkpoint.worker);
      return true;
    case CheckpointAction::kDelete:
      break;
  }
  if (checkpoint.pinned) {
    return refuse(absl::StatusCode::kFailedPrecondition, "CHECKPOINT_PINNED",
                  absl::StrCat(what, " is pinned: unpin it first"));
  }
  if (ServedVersions(c.state).count(WeightsVersion(checkpoint)) > 0) {
    return refuse(absl::StatusCode::kFailedPrecondition, "CHECKPOINT_SERVED",
                  absl::StrCat(what, " is served: delete its deployment first"));
  }
  if (!job.final() && NewestCheckpoint(c.state, job.id) == &checkpoint) {
    return refuse(absl::StatusCode::kFailedPrecondition, "CHECKPOINT_NEEDED",
                  absl::StrCat(what,
                               " is what the job would go on from: wait for a newer one, "
                               "or cancel the job"));
  }
  checkpoint.state = CheckpointState::kDeleting;
  SaveCheckpoint(c, checkpoint);
  WakeCaretaker(c, job.id, checkpoint.worker);
  return true;
}

}  // namespace mindforge::sched
