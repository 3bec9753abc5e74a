#include "coordinator/store/migrations.h"

#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

// Times are microseconds since 1970, 0: none. Text is stored as blobs. JSON holds short lists that
// are only ever read and written whole.
constexpr const char* kMigrations[] = {
    R"sql(
CREATE TABLE jobs (
  id BLOB PRIMARY KEY, sequence INTEGER NOT NULL, name BLOB NOT NULL, spec BLOB NOT NULL,
  state INTEGER NOT NULL, reason BLOB NOT NULL, generation INTEGER NOT NULL,
  failures INTEGER NOT NULL, submitted_at INTEGER NOT NULL, started_at INTEGER NOT NULL,
  finished_at INTEGER NOT NULL, revision INTEGER NOT NULL, device_signature BLOB NOT NULL,
  dataset_digest BLOB NOT NULL, pause_requested INTEGER NOT NULL, stop INTEGER NOT NULL,
  stop_sequence INTEGER NOT NULL, min_workers INTEGER NOT NULL, max_workers INTEGER NOT NULL,
  accumulation_steps INTEGER NOT NULL, device INTEGER NOT NULL, priority INTEGER NOT NULL,
  checkpoint_dir BLOB NOT NULL, keep_last INTEGER NOT NULL, keep_every INTEGER NOT NULL,
  max_failures INTEGER NOT NULL, members BLOB NOT NULL, world_sizes BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE job_events (
  job BLOB NOT NULL, number INTEGER NOT NULL, at INTEGER NOT NULL, state INTEGER NOT NULL,
  generation INTEGER NOT NULL, reason BLOB NOT NULL, PRIMARY KEY (job, number)
) WITHOUT ROWID;
CREATE TABLE progress (
  job BLOB NOT NULL, step INTEGER NOT NULL, generation INTEGER NOT NULL,
  total_steps INTEGER NOT NULL, epoch REAL NOT NULL, world_size INTEGER NOT NULL,
  loss REAL NOT NULL, learning_rate REAL NOT NULL, gradient_norm REAL NOT NULL,
  tokens INTEGER NOT NULL, tokens_per_second REAL NOT NULL, step_seconds REAL NOT NULL,
  record BLOB NOT NULL, PRIMARY KEY (job, step)
) WITHOUT ROWID;
CREATE TABLE logs (
  job BLOB NOT NULL, number INTEGER NOT NULL, rank INTEGER NOT NULL, line BLOB NOT NULL,
  PRIMARY KEY (job, number)
) WITHOUT ROWID;
CREATE TABLE checkpoints (
  job BLOB NOT NULL, step INTEGER NOT NULL, generation INTEGER NOT NULL, state INTEGER NOT NULL,
  path BLOB NOT NULL, size_bytes INTEGER NOT NULL, loss REAL NOT NULL,
  committed_at INTEGER NOT NULL, pinned INTEGER NOT NULL, manifest_digest BLOB NOT NULL,
  final INTEGER NOT NULL, worker BLOB NOT NULL, verification INTEGER NOT NULL,
  verification_detail BLOB NOT NULL, verified_at INTEGER NOT NULL, PRIMARY KEY (job, step)
) WITHOUT ROWID;
CREATE TABLE delete_orders (
  path BLOB PRIMARY KEY, job BLOB NOT NULL, worker BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE workers (
  id BLOB PRIMARY KEY, name BLOB NOT NULL, version BLOB NOT NULL, advertise_host BLOB NOT NULL,
  incarnation BLOB NOT NULL, devices BLOB NOT NULL, drained INTEGER NOT NULL,
  progress_ack INTEGER NOT NULL, logs_ack INTEGER NOT NULL, checkpoints_ack INTEGER NOT NULL,
  corruptions_ack INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE deployments (
  name BLOB PRIMARY KEY, job BLOB NOT NULL, step INTEGER, path BLOB NOT NULL,
  replicas INTEGER NOT NULL, prompt_style INTEGER NOT NULL, created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE requests (
  id BLOB PRIMARY KEY, digest BLOB NOT NULL, job BLOB NOT NULL, sequence INTEGER NOT NULL
) WITHOUT ROWID;
)sql",
    R"sql(
ALTER TABLE progress ADD COLUMN validation_loss REAL;
ALTER TABLE progress ADD COLUMN loss_scale REAL;
ALTER TABLE progress ADD COLUMN skipped_steps INTEGER NOT NULL DEFAULT 0;
CREATE INDEX validated_steps ON progress (job, step) WHERE validation_loss IS NOT NULL;
ALTER TABLE checkpoints ADD COLUMN validation_loss REAL;
ALTER TABLE jobs ADD COLUMN skipped_lines INTEGER NOT NULL DEFAULT 0;
)sql",
    R"sql(
ALTER TABLE deployments ADD COLUMN load_options BLOB NOT NULL DEFAULT x'';
)sql",
    // A start reads job_totals and no history; live jobs are those before state 8 (CANCELLED).
    R"sql(
ALTER TABLE jobs ADD COLUMN retry_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN spool BLOB NOT NULL DEFAULT x'';
UPDATE workers SET spool = incarnation;
CREATE INDEX live_jobs ON jobs (id) WHERE state < 8;
CREATE TABLE milestones (
  job BLOB NOT NULL, number INTEGER NOT NULL, kind INTEGER NOT NULL, at INTEGER NOT NULL,
  step INTEGER NOT NULL, text BLOB NOT NULL, PRIMARY KEY (job, number)
) WITHOUT ROWID;
CREATE TABLE job_totals (
  job BLOB PRIMARY KEY, last_step INTEGER NOT NULL DEFAULT 0, first_loss REAL NOT NULL DEFAULT 0,
  validation_loss REAL, productive_seconds REAL NOT NULL DEFAULT 0,
  tokens INTEGER NOT NULL DEFAULT 0, log_count INTEGER NOT NULL DEFAULT 0,
  milestone_count INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
INSERT INTO job_totals (job, last_step, productive_seconds, tokens, first_loss, validation_loss)
  SELECT job, max(step), sum(step_seconds), sum(tokens),
    coalesce((SELECT loss FROM progress f WHERE f.job = p.job AND loss <> 0
              ORDER BY step LIMIT 1), 0),
    (SELECT validation_loss FROM progress v WHERE v.job = p.job AND validation_loss IS NOT NULL
     ORDER BY step DESC LIMIT 1)
  FROM progress p GROUP BY job;
INSERT INTO job_totals (job, log_count) SELECT job, max(number) FROM logs WHERE true GROUP BY job
  ON CONFLICT (job) DO UPDATE SET log_count = excluded.log_count;
DROP INDEX validated_steps;
)sql",
    // Fewer steps than the last one's number: records are missing between them.
    R"sql(
ALTER TABLE job_totals ADD COLUMN steps INTEGER NOT NULL DEFAULT 0;
UPDATE job_totals SET steps = (SELECT count(*) FROM progress p WHERE p.job = job_totals.job);
)sql",
    // Of deleted jobs rows are left for a while, which nobody sees.
    R"sql(
ALTER TABLE jobs ADD COLUMN exit_step INTEGER NOT NULL DEFAULT -1;
CREATE TABLE purged_jobs (job BLOB PRIMARY KEY) WITHOUT ROWID;
)sql",
    // What a job was pinned to until now it was pinned to from its first generation on.
    R"sql(
ALTER TABLE jobs ADD COLUMN numerics BLOB NOT NULL DEFAULT x'5b5d';
UPDATE jobs SET numerics =
  CAST(json_array(json_array(1, 0, CAST(device_signature AS TEXT))) AS BLOB)
  WHERE length(device_signature) > 0;
)sql",
    R"sql(
ALTER TABLE jobs ADD COLUMN scale_asked INTEGER NOT NULL DEFAULT 0;
)sql",
};

}  // namespace

int SchemaVersion() { return static_cast<int>(std::size(kMigrations)); }

absl::Status Migrate(Database& database, int to) {
  ASSIGN_OR_RETURN(const int64_t found, database.UserVersion());
  if (found > SchemaVersion()) {
    return absl::FailedPreconditionError(
        absl::StrCat("it was written by a newer program (schema ", found, ", this one knows ",
                     SchemaVersion(), "): run that program, or restore a backup made before"));
  }
  for (int64_t version = found; version < to; ++version) {
    RETURN_IF_ERROR(database.Execute(absl::StrCat("BEGIN IMMEDIATE;", kMigrations[version],
                                                  "PRAGMA user_version=", version + 1, ";COMMIT;")))
        << "migration " << version + 1;
  }
  return absl::OkStatus();
}

}  // namespace mindforge
