#include "coordinator/store/write_rows.h"

#include <algorithm>
#include <map>

#include "common/status_macros.h"
#include "coordinator/scheduler/state.h"
#include "coordinator/store/purge.h"
#include "coordinator/store/row_json.h"

namespace mindforge {
namespace {

using sched::Changes;

absl::Status WriteJobs(Database& database, const Changes& changes) {
  for (const sched::JobRecord& job : changes.jobs) {
    const sched::JobWish& wish = job.wish;
    RETURN_IF_ERROR(
        database
            .Prepared("INSERT OR REPLACE INTO jobs (id, sequence, name, spec, state, reason,"
                      " generation, failures, submitted_at, started_at, finished_at, revision,"
                      " device_signature, dataset_digest, pause_requested, stop, stop_sequence,"
                      " min_workers, max_workers, accumulation_steps, device, priority,"
                      " checkpoint_dir, keep_last, keep_every, max_failures, members, world_sizes,"
                      " skipped_lines, retry_at, exit_step, numerics, scale_asked)"
                      " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)")
            .Bind(job.id.value(), job.sequence, wish.name, job.spec, static_cast<int>(job.state),
                  job.reason, job.generation.value(), job.failures, TimeToRow(job.submitted_at),
                  TimeToRow(job.started_at), TimeToRow(job.finished_at), job.revision,
                  job.device_signature, job.dataset_digest, job.pause_requested,
                  static_cast<int>(job.stop), job.stop_sequence, wish.min_workers, wish.max_workers,
                  wish.accumulation_steps, wish.device ? static_cast<int>(*wish.device) : 0,
                  wish.priority, wish.checkpoint_dir, wish.keep_last, wish.keep_every,
                  wish.max_failures, MembersToJson(job.members), WorldSizesToJson(job.world_sizes),
                  job.skipped_lines, TimeToRow(job.retry_at), job.exit_step,
                  NumericsToJson(job.numerics), job.scale_asked)
            .Run());
  }
  return absl::OkStatus();
}

absl::Status WriteEvents(Database& database, const Changes& changes) {
  for (const auto& [job, entry] : changes.events) {
    const auto& [number, event] = entry;
    RETURN_IF_ERROR(database.Prepared("INSERT OR REPLACE INTO job_events VALUES (?,?,?,?,?,?)")
                        .Bind(job.value(), number, TimeToRow(event.at),
                              static_cast<int>(event.state), event.generation.value(), event.reason)
                        .Run());
    if (number > static_cast<int64_t>(sched::kMaxEventsPerJob)) {
      RETURN_IF_ERROR(database.Prepared("DELETE FROM job_events WHERE job = ? AND number <= ?")
                          .Bind(job.value(), number - static_cast<int64_t>(sched::kMaxEventsPerJob))
                          .Run());
    }
  }
  return absl::OkStatus();
}

// What a step adds to its job's totals, in the transaction that records it for the first time.
absl::Status AddToTotals(Database& database, const JobId& job, const sched::Progress& record) {
  return database
      .Prepared(
          "INSERT INTO job_totals (job, last_step, first_loss, validation_loss,"
          " productive_seconds, tokens, steps) VALUES (?,?,?,?,?,?,1)"
          " ON CONFLICT (job) DO UPDATE SET"
          " last_step = max(last_step, excluded.last_step),"
          " first_loss = CASE first_loss WHEN 0 THEN excluded.first_loss ELSE first_loss END,"
          " validation_loss = coalesce(excluded.validation_loss, validation_loss),"
          " productive_seconds = productive_seconds + excluded.productive_seconds,"
          " tokens = tokens + excluded.tokens, steps = steps + 1")
      .Bind(job.value(), record.step, record.loss, record.validation_loss, record.step_seconds,
            record.skipped ? 0 : record.tokens)
      .Run();
}

absl::Status WriteProgress(Database& database, const Changes& changes) {
  for (const auto& [job, record] : changes.progress) {
    RETURN_IF_ERROR(
        database.Prepared("INSERT OR IGNORE INTO progress VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)")
            .Bind(job.value(), record.step, record.generation.value(), record.total_steps,
                  record.epoch, record.world_size, record.loss, record.learning_rate,
                  record.gradient_norm, record.tokens, record.tokens_per_second,
                  record.step_seconds, record.bytes, record.validation_loss, record.loss_scale,
                  record.skipped_steps)
            .Run());
    if (database.RowsChanged() > 0) RETURN_IF_ERROR(AddToTotals(database, job, record));
  }
  return absl::OkStatus();
}

absl::Status WriteMilestones(Database& database, const Changes& changes) {
  for (const auto& [job, mark] : changes.milestones) {
    RETURN_IF_ERROR(database.Prepared("INSERT OR REPLACE INTO milestones VALUES (?,?,?,?,?,?)")
                        .Bind(job.value(), mark.number, static_cast<int>(mark.kind),
                              TimeToRow(mark.at), mark.step, mark.text)
                        .Run());
    RETURN_IF_ERROR(database
                        .Prepared("INSERT INTO job_totals (job, milestone_count) VALUES (?,?)"
                                  " ON CONFLICT (job) DO UPDATE SET"
                                  " milestone_count = excluded.milestone_count")
                        .Bind(job.value(), mark.number)
                        .Run());
    if (mark.number <= sched::kMaxMilestonesPerJob) continue;
    RETURN_IF_ERROR(database.Prepared("DELETE FROM milestones WHERE job = ? AND number <= ?")
                        .Bind(job.value(), mark.number - sched::kMaxMilestonesPerJob)
                        .Run());
  }
  return absl::OkStatus();
}

absl::Status WriteLogs(Database& database, const Changes& changes) {
  std::map<JobId, int64_t> newest;
  for (const auto& [job, entry] : changes.logs) {
    const auto& [number, line] = entry;
    RETURN_IF_ERROR(database.Prepared("INSERT OR REPLACE INTO logs VALUES (?,?,?,?)")
                        .Bind(job.value(), number, line.rank, line.bytes)
                        .Run());
    newest[job] = std::max(newest[job], number);
  }
  for (const auto& [job, number] : newest) {
    RETURN_IF_ERROR(database
                        .Prepared("INSERT INTO job_totals (job, log_count) VALUES (?,?)"
                                  " ON CONFLICT (job) DO UPDATE SET log_count = excluded.log_count")
                        .Bind(job.value(), number)
                        .Run());
    if (number <= sched::kMaxLogLinesPerJob) continue;
    RETURN_IF_ERROR(database.Prepared("DELETE FROM logs WHERE job = ? AND number <= ?")
                        .Bind(job.value(), number - sched::kMaxLogLinesPerJob)
                        .Run());
  }
  return absl::OkStatus();
}

absl::Status WriteWorkers(Database& database, const Changes& changes) {
  // First: a worker may be forgotten and register again in one step.
  for (const WorkerId& id : changes.deleted_workers) {
    RETURN_IF_ERROR(database.Prepared("DELETE FROM workers WHERE id = ?").Bind(id.value()).Run());
  }
  for (const sched::WorkerRecord& worker : changes.workers) {
    RETURN_IF_ERROR(
        database.Prepared("INSERT OR REPLACE INTO workers VALUES (?,?,?,?,?,?,?,?,?,?,?,?)")
            .Bind(worker.id.value(), worker.name, worker.version, worker.advertise_host,
                  worker.incarnation, DevicesToJson(worker.devices), worker.drained,
                  worker.acks.progress, worker.acks.logs, worker.acks.checkpoints,
                  worker.acks.corruptions, worker.spool)
            .Run());
  }
  return absl::OkStatus();
}

absl::Status WriteCheckpoints(Database& database, const Changes& changes) {
  for (const sched::Checkpoint& c : changes.checkpoints) {
    RETURN_IF_ERROR(
        database
            .Prepared("INSERT OR REPLACE INTO checkpoints VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)")
            .Bind(c.job.value(), c.step, c.generation.value(), static_cast<int>(c.state), c.path,
                  c.size_bytes, c.loss, TimeToRow(c.committed_at), c.pinned, c.manifest_digest,
                  c.final, c.worker.value(), static_cast<int>(c.verification),
                  c.verification_detail, TimeToRow(c.verified_at), c.validation_loss)
            .Run());
  }
  for (const auto& [job, step] : changes.deleted_checkpoints) {
    RETURN_IF_ERROR(database.Prepared("DELETE FROM checkpoints WHERE job = ? AND step = ?")
                        .Bind(job.value(), step)
                        .Run());
  }
  for (const sched::DeleteOrder& order : changes.delete_orders) {
    RETURN_IF_ERROR(database.Prepared("INSERT OR REPLACE INTO delete_orders VALUES (?,?,?)")
                        .Bind(order.path, order.job.value(), order.worker.value())
                        .Run());
  }
  for (const std::string& path : changes.done_delete_orders) {
    RETURN_IF_ERROR(database.Prepared("DELETE FROM delete_orders WHERE path = ?").Bind(path).Run());
  }
  return absl::OkStatus();
}

absl::Status WriteDeployments(Database& database, const Changes& changes) {
  for (const sched::Deployment& d : changes.deployments) {
    // A step of -1 stands for none: no optimizer step has that number.
    RETURN_IF_ERROR(database.Prepared("INSERT OR REPLACE INTO deployments VALUES (?,?,?,?,?,?,?,?)")
                        .Bind(d.name, d.job.value(), d.step.value_or(-1), d.path, d.replicas,
                              d.prompt_style, TimeToRow(d.created_at), d.load_options)
                        .Run());
  }
  for (const std::string& name : changes.deleted_deployments) {
    RETURN_IF_ERROR(database.Prepared("DELETE FROM deployments WHERE name = ?").Bind(name).Run());
  }
  return absl::OkStatus();
}

absl::Status WriteRequests(Database& database, const Changes& changes) {
  for (const sched::RequestRecord& request : changes.requests) {
    RETURN_IF_ERROR(database.Prepared("INSERT OR REPLACE INTO requests VALUES (?,?,?,?)")
                        .Bind(request.id, request.digest, request.job.value(), request.sequence)
                        .Run());
  }
  for (const std::string& id : changes.forgotten_requests) {
    RETURN_IF_ERROR(database.Prepared("DELETE FROM requests WHERE id = ?").Bind(id).Run());
  }
  return absl::OkStatus();
}

absl::Status DeleteJobs(Database& database, const Changes& changes) {
  for (const JobId& job : changes.deleted_jobs) RETURN_IF_ERROR(MarkForPurge(database, job));
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteRows(Database& database, const Changes& changes) {
  RETURN_IF_ERROR(WriteJobs(database, changes));
  RETURN_IF_ERROR(WriteEvents(database, changes));
  RETURN_IF_ERROR(WriteProgress(database, changes));
  RETURN_IF_ERROR(WriteMilestones(database, changes));
  RETURN_IF_ERROR(WriteLogs(database, changes));
  RETURN_IF_ERROR(WriteWorkers(database, changes));
  RETURN_IF_ERROR(WriteCheckpoints(database, changes));
  RETURN_IF_ERROR(WriteDeployments(database, changes));
  RETURN_IF_ERROR(WriteRequests(database, changes));
  return DeleteJobs(database, changes);
}

}  // namespace mindforge
