#include "coordinator/store/load_rows.h"

#include <set>
#include <utility>

#include "common/status_macros.h"
#include "coordinator/store/row_json.h"

namespace mindforge {
namespace {

using sched::Snapshot;

absl::StatusOr<sched::JobRecord> ReadJob(const Statement& row) {
  sched::JobRecord job;
  job.id = JobId(row.Text(0));
  job.sequence = row.Int(1);
  job.wish.name = row.Text(2);
  job.spec = row.Text(3);
  job.state = static_cast<sched::JobState>(row.Int(4));
  job.reason = row.Text(5);
  job.generation = Generation(row.Int(6));
  job.failures = static_cast<int>(row.Int(7));
  job.submitted_at = TimeFromRow(row.Int(8));
  job.started_at = TimeFromRow(row.Int(9));
  job.finished_at = TimeFromRow(row.Int(10));
  job.revision = row.Int(11);
  job.device_signature = row.Text(12);
  job.dataset_digest = row.Text(13);
  job.pause_requested = row.Int(14) != 0;
  job.stop = static_cast<sched::StopPurpose>(row.Int(15));
  job.stop_sequence = row.Int(16);
  job.wish.min_workers = static_cast<int>(row.Int(17));
  job.wish.max_workers = static_cast<int>(row.Int(18));
  job.wish.accumulation_steps = row.Int(19);
  if (row.Int(20) != 0) job.wish.device = static_cast<sched::DeviceKind>(row.Int(20));
  job.wish.priority = static_cast<int>(row.Int(21));
  job.wish.checkpoint_dir = row.Text(22);
  job.wish.keep_last = row.Int(23);
  job.wish.keep_every = row.Int(24);
  job.wish.max_failures = static_cast<int>(row.Int(25));
  RETURN_IF_ERROR(MembersFromJson(row.Text(26), &job.members));
  RETURN_IF_ERROR(WorldSizesFromJson(row.Text(27), &job.world_sizes));
  job.skipped_lines = row.Int(28);
  job.retry_at = TimeFromRow(row.Int(29));
  job.exit_step = row.Int(30);
  RETURN_IF_ERROR(NumericsFromJson(row.Text(31), &job.numerics));
  job.scale_asked = row.Int(32) != 0;
  return job;
}

absl::Status LoadJobs(Database& database, Snapshot& snapshot) {
  Statement& rows = database.Prepared(
      "SELECT id, sequence, name, spec, state, reason, generation, failures, submitted_at,"
      " started_at, finished_at, revision, device_signature, dataset_digest, pause_requested, stop,"
      " stop_sequence, min_workers, max_workers, accumulation_steps, device, priority,"
      " checkpoint_dir, keep_last, keep_every, max_failures, members, world_sizes, skipped_lines,"
      " retry_at, exit_step, numerics, scale_asked FROM jobs");
  rows.Bind();
  while (rows.Next()) {
    ASSIGN_OR_RETURN(sched::JobRecord job, ReadJob(rows));
    snapshot.jobs.push_back(std::move(job));
  }
  return rows.status();
}

// Of live jobs; an ended one's are read when somebody asks for them.
absl::Status LoadEvents(Database& database, Snapshot& snapshot) {
  Statement& rows = database.Prepared(
      "SELECT job, number, at, state, generation, reason FROM job_events"
      " WHERE job IN (SELECT id FROM jobs WHERE state < 8) ORDER BY job, number");
  rows.Bind();
  while (rows.Next()) {
    auto& history = snapshot.histories[JobId(rows.Text(0))];
    history.event_count = rows.Int(1);
    history.events.push_back({TimeFromRow(rows.Int(2)), static_cast<sched::JobState>(rows.Int(3)),
                              Generation(rows.Int(4)), rows.Text(5)});
  }
  return rows.status();
}

// Each job's totals and its newest record, which is one seek.
absl::Status LoadTotals(Database& database, Snapshot& snapshot) {
  Statement& rows = database.Prepared(
      "SELECT t.job, t.last_step, t.first_loss, t.validation_loss, t.productive_seconds, t.tokens,"
      " t.log_count, t.milestone_count, p.generation, p.total_steps, p.epoch, p.world_size, p.loss,"
      " p.learning_rate, p.gradient_norm, p.tokens, p.tokens_per_second, p.step_seconds,"
      " p.loss_scale, p.skipped_steps FROM job_totals t"
      " LEFT JOIN progress p ON p.job = t.job AND p.step = t.last_step");
  rows.Bind();
  while (rows.Next()) {
    auto& history = snapshot.histories[JobId(rows.Text(0))];
    history.first_loss = rows.Double(2);
    history.productive_seconds = rows.Double(4);
    history.tokens = rows.Int(5);
    history.log_count = rows.Int(6);
    history.milestone_count = rows.Int(7);
    sched::Progress& record = history.last_progress;
    record.step = rows.Int(1);
    record.validation_loss = rows.OptionalDouble(3);
    record.generation = Generation(rows.Int(8));
    record.total_steps = rows.Int(9);
    record.epoch = rows.Double(10);
    record.world_size = static_cast<int>(rows.Int(11));
    record.loss = rows.Double(12);
    record.learning_rate = rows.Double(13);
    record.gradient_norm = rows.Double(14);
    record.tokens = rows.Int(15);
    record.tokens_per_second = rows.Double(16);
    record.step_seconds = rows.Double(17);
    record.loss_scale = rows.OptionalDouble(18);
    record.skipped_steps = rows.Int(19);
  }
  return rows.status();
}

// Of live jobs whose steps have gaps: rare, so that a start reads no other job's records.
absl::Status LoadMissingSteps(Database& database, Snapshot& snapshot) {
  Statement& rows = database.Prepared(
      "SELECT job, before, step FROM (SELECT job, step,"
      " lag(step, 1, 0) OVER (PARTITION BY job ORDER BY step) AS before FROM progress WHERE job IN"
      " (SELECT job FROM job_totals WHERE steps < last_step"
      " AND job IN (SELECT id FROM jobs WHERE state < 8))) WHERE step > before + 1");
  rows.Bind();
  while (rows.Next()) {
    std::set<int64_t>& missing = snapshot.histories[JobId(rows.Text(0))].missing_steps;
    for (int64_t step = rows.Int(1) + 1; step < rows.Int(2); ++step) {
      if (missing.size() >= sched::kMaxMissingSteps) break;
      missing.insert(missing.end(), step);
    }
  }
  return rows.status();
}

absl::Status LoadWorkers(Database& database, Snapshot& snapshot) {
  Statement& rows = database.Prepared(
      "SELECT id, name, version, advertise_host, incarnation, devices, drained, progress_ack,"
      " logs_ack, checkpoints_ack, corruptions_ack, spool FROM workers");
  rows.Bind();
  while (rows.Next()) {
    sched::WorkerRecord worker;
    worker.id = WorkerId(rows.Text(0));
    worker.name = rows.Text(1);
    worker.version = rows.Text(2);
    worker.advertise_host = rows.Text(3);
    worker.incarnation = rows.Text(4);
    RETURN_IF_ERROR(DevicesFromJson(rows.Text(5), &worker.devices));
    worker.drained = rows.Int(6) != 0;
    worker.acks = {rows.Int(7), rows.Int(8), rows.Int(9), rows.Int(10)};
    worker.spool = rows.Text(11);
    snapshot.workers.push_back(std::move(worker));
  }
  return rows.status();
}

absl::Status LoadCheckpoints(Database& database, Snapshot& snapshot) {
  Statement& rows = database.Prepared(
      "SELECT job, step, generation, state, path, size_bytes, loss, committed_at, pinned,"
      " manifest_digest, final, worker, verification, verification_detail, verified_at,"
      " validation_loss FROM checkpoints"
      " WHERE job NOT IN (SELECT job FROM purged_jobs)");
  rows.Bind();
  while (rows.Next()) {
    sched::Checkpoint c;
    c.job = JobId(rows.Text(0));
    c.step = rows.Int(1);
    c.generation = Generation(rows.Int(2));
    c.state = static_cast<sched::CheckpointState>(rows.Int(3));
    c.path = rows.Text(4);
    c.size_bytes = rows.Int(5);
    c.loss = rows.Double(6);
    c.committed_at = TimeFromRow(rows.Int(7));
    c.pinned = rows.Int(8) != 0;
    c.manifest_digest = rows.Text(9);
    c.final = rows.Int(10) != 0;
    c.worker = WorkerId(rows.Text(11));
    c.verification = static_cast<sched::Verification>(rows.Int(12));
    c.verification_detail = rows.Text(13);
    c.verified_at = TimeFromRow(rows.Int(14));
    c.validation_loss = rows.OptionalDouble(15);
    snapshot.checkpoints.push_back(std::move(c));
  }
  return rows.status();
}

absl::Status LoadRest(Database& database, Snapshot& snapshot) {
  Statement& orders = database.Prepared("SELECT path, job, worker FROM delete_orders");
  orders.Bind();
  while (orders.Next()) {
    snapshot.delete_orders.push_back(
        {orders.Text(0), JobId(orders.Text(1)), WorkerId(orders.Text(2))});
  }
  RETURN_IF_ERROR(orders.status());
  Statement& rows = database.Prepared(
      "SELECT name, job, step, path, replicas, prompt_style, created_at, load_options"
      " FROM deployments");
  rows.Bind();
  while (rows.Next()) {
    sched::Deployment d;
    d.name = rows.Text(0);
    d.job = JobId(rows.Text(1));
    if (rows.Int(2) >= 0) d.step = rows.Int(2);
    d.path = rows.Text(3);
    d.replicas = static_cast<int>(rows.Int(4));
    d.prompt_style = static_cast<int>(rows.Int(5));
    d.created_at = TimeFromRow(rows.Int(6));
    d.load_options = rows.Text(7);
    snapshot.deployments.push_back(std::move(d));
  }
  RETURN_IF_ERROR(rows.status());
  Statement& requests = database.Prepared("SELECT id, digest, job, sequence FROM requests");
  requests.Bind();
  while (requests.Next()) {
    snapshot.requests.push_back(
        {requests.Text(0), requests.Text(1), JobId(requests.Text(2)), requests.Int(3)});
  }
  return requests.status();
}

}  // namespace

absl::StatusOr<Snapshot> LoadRows(Database& database) {
  Snapshot snapshot;
  RETURN_IF_ERROR(LoadJobs(database, snapshot));
  RETURN_IF_ERROR(LoadEvents(database, snapshot));
  RETURN_IF_ERROR(LoadTotals(database, snapshot));
  RETURN_IF_ERROR(LoadMissingSteps(database, snapshot));
  RETURN_IF_ERROR(LoadWorkers(database, snapshot));
  RETURN_IF_ERROR(LoadCheckpoints(database, snapshot));
  RETURN_IF_ERROR(LoadRest(database, snapshot));
  return snapshot;
}

}  // namespace mindforge
