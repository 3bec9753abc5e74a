#include "coordinator/store/sqlite_store.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/status_macros.h"
#include "coordinator/store/load_rows.h"
#include "coordinator/store/migrations.h"
#include "coordinator/store/purge.h"
#include "coordinator/store/row_json.h"
#include "coordinator/store/write_rows.h"

namespace mindforge {
namespace {

absl::StatusOr<UniqueFd> LockFolder(const std::string& folder) {
  const std::string path = JoinPath(folder, "coordinator.lock");
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (fd.get() < 0) return ErrnoStatus(errno, "cannot open", path);
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(errno, "cannot lock", path);
    return absl::AlreadyExistsError(
        absl::StrCat("another coordinator uses ", folder, " (it holds ", path,
                     "): stop it first, or give this one a folder of its own with --data-dir"));
  }
  return fd;
}

absl::Status OpenError(const absl::Status& status, const std::string& path) {
  const char* const remedy =
      status.code() == absl::StatusCode::kFailedPrecondition
          ? ""
          : ": restore it from a backup, or move it away to begin with an empty store";
  return absl::Status(status.code(), absl::StrCat("the store ", path,
                                                  " cannot be used: ", status.message(), remedy));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SqliteStore>> SqliteStore::Open(const std::string& folder) {
  RETURN_IF_ERROR(MakeDirs(folder)) << "--data-dir";
  ASSIGN_OR_RETURN(UniqueFd lock, LockFolder(folder));
  const std::string path = JoinPath(folder, "coordinator.db");
  auto writer = Database::Open(path, /*read_only=*/false);
  if (!writer.ok()) return OpenError(writer.status(), path);
  if (const absl::Status status = Migrate(**writer); !status.ok()) return OpenError(status, path);
  auto reader = Database::Open(path, /*read_only=*/true);
  if (!reader.ok()) return OpenError(reader.status(), path);
  RETURN_IF_ERROR(SyncDir(folder));
  return std::unique_ptr<SqliteStore>(
      new SqliteStore(std::move(lock), *std::move(writer), *std::move(reader)));
}

absl::StatusOr<sched::Snapshot> SqliteStore::Load() {
  MutexLock lock(writer_mutex_);
  absl::StatusOr<sched::Snapshot> snapshot = LoadRows(*writer_);
  if (!snapshot.ok()) return OpenError(snapshot.status(), "coordinator.db");
  return snapshot;
}

absl::Status SqliteStore::Apply(const std::vector<const sched::Changes*>& batch) {
  MutexLock lock(writer_mutex_);
  return InTransaction([&](Database& database) -> absl::Status {
    for (const sched::Changes* changes : batch) {
      RETURN_IF_ERROR(WriteRows(database, *changes));
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<bool> SqliteStore::Purge(int rows) {
  MutexLock lock(writer_mutex_);
  bool more = false;
  RETURN_IF_ERROR(InTransaction([&](Database& database) -> absl::Status {
    ASSIGN_OR_RETURN(more, PurgeRows(database, rows));
    return absl::OkStatus();
  }));
  return more;
}

absl::Status SqliteStore::InTransaction(const std::function<absl::Status(Database&)>& change) {
  RETURN_IF_ERROR(writer_->Prepared("BEGIN IMMEDIATE").Bind().Run());
  absl::Status status = change(*writer_);
  if (status.ok()) status = writer_->Prepared("COMMIT").Bind().Run();
  if (!status.ok()) {
    // A failed COMMIT may have been rolled back already; then this fails too, and changes nothing.
    writer_->Execute("ROLLBACK").IgnoreError();
  }
  return status;
}

absl::StatusOr<std::vector<StoredProgress>> SqliteStore::ReadProgress(const JobId& job,
                                                                      int64_t after_step,
                                                                      int limit) {
  MutexLock lock(reader_mutex_);
  Statement& rows = reader_->Prepared(
      "SELECT step, record FROM progress WHERE job = ?1 AND step > ?2"
      " AND ?1 NOT IN (SELECT job FROM purged_jobs) ORDER BY step LIMIT ?3");
  rows.Bind(job.value(), after_step, limit);
  std::vector<StoredProgress> records;
  while (rows.Next()) records.push_back({rows.Int(0), rows.Text(1)});
  RETURN_IF_ERROR(rows.status());
  return records;
}

absl::StatusOr<std::vector<StoredLog>> SqliteStore::ReadLogs(const JobId& job, int64_t after,
                                                             std::optional<int> rank, int limit) {
  MutexLock lock(reader_mutex_);
  Statement& rows = reader_->Prepared(
      "SELECT number, rank, line FROM logs WHERE job = ?1 AND number > ?2 AND (?3 = 0 OR rank = ?4)"
      " AND ?1 NOT IN (SELECT job FROM purged_jobs) ORDER BY number LIMIT ?5");
  rows.Bind(job.value(), after, rank.has_value(), rank.value_or(0), limit);
  std::vector<StoredLog> lines;
  while (rows.Next()) {
    lines.push_back({rows.Int(0), static_cast<int>(rows.Int(1)), rows.Text(2)});
  }
  RETURN_IF_ERROR(rows.status());
  return lines;
}

absl::StatusOr<std::vector<sched::Milestone>> SqliteStore::ReadMilestones(const JobId& job,
                                                                          int64_t after,
                                                                          int limit) {
  MutexLock lock(reader_mutex_);
  Statement& rows = reader_->Prepared(
      "SELECT number, kind, at, step, text FROM milestones WHERE job = ?1 AND number > ?2"
      " AND ?1 NOT IN (SELECT job FROM purged_jobs) ORDER BY number LIMIT ?3");
  rows.Bind(job.value(), after, limit);
  std::vector<sched::Milestone> marks;
  while (rows.Next()) {
    marks.push_back({rows.Int(0), static_cast<sched::MilestoneKind>(rows.Int(1)),
                     TimeFromRow(rows.Int(2)), rows.Int(3), rows.Text(4)});
  }
  RETURN_IF_ERROR(rows.status());
  return marks;
}

absl::StatusOr<std::vector<sched::JobEvent>> SqliteStore::ReadEvents(const JobId& job) {
  MutexLock lock(reader_mutex_);
  Statement& rows = reader_->Prepared(
      "SELECT at, state, generation, reason FROM job_events WHERE job = ?1"
      " AND ?1 NOT IN (SELECT job FROM purged_jobs) ORDER BY number");
  rows.Bind(job.value());
  std::vector<sched::JobEvent> events;
  while (rows.Next()) {
    events.push_back({TimeFromRow(rows.Int(0)), static_cast<sched::JobState>(rows.Int(1)),
                      Generation(rows.Int(2)), rows.Text(3)});
  }
  RETURN_IF_ERROR(rows.status());
  return events;
}

}  // namespace mindforge
