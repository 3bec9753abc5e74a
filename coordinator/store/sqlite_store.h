// The store in one SQLite file: WAL, synchronous=FULL, one writer.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "common/unique_fd.h"
#include "coordinator/store/sqlite.h"
#include "coordinator/store/store.h"

namespace mindforge {

// Thread-safe. Holds the folder's lock while it lives.
class SqliteStore : public Store {
 public:
  // Opens `folder`/coordinator.db, made when it is not there, and brings it to this program's
  // schema. ALREADY_EXISTS: another process holds the folder. FAILED_PRECONDITION: a newer program
  // wrote it. DATA_LOSS: it cannot be read. Each in one line that names the file.
  static absl::StatusOr<std::unique_ptr<SqliteStore>> Open(const std::string& folder);

  absl::StatusOr<sched::Snapshot> Load() override;
  absl::Status Apply(const std::vector<const sched::Changes*>& batch) override;
  absl::StatusOr<bool> Purge(int rows) override;
  absl::StatusOr<std::vector<StoredProgress>> ReadProgress(const JobId& job, int64_t after_step,
                                                           int limit) override;
  absl::StatusOr<std::vector<StoredLog>> ReadLogs(const JobId& job, int64_t after,
                                                  std::optional<int> rank, int limit) override;
  absl::StatusOr<std::vector<sched::Milestone>> ReadMilestones(const JobId& job, int64_t after,
                                                               int limit) override;
  absl::StatusOr<std::vector<sched::JobEvent>> ReadEvents(const JobId& job) override;

 private:
  SqliteStore(UniqueFd lock, std::unique_ptr<Database> writer, std::unique_ptr<Database> reader)
      : lock_(std::move(lock)), writer_(std::move(writer)), reader_(std::move(reader)) {}

  // Commits what `change` does when it returns OK, else leaves all as it was.
  absl::Status InTransaction(const std::function<absl::Status(Database&)>& change)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(writer_mutex_);

  const UniqueFd lock_;
  Mutex writer_mutex_;
  const std::unique_ptr<Database> writer_ ABSL_PT_GUARDED_BY(writer_mutex_);
  Mutex reader_mutex_;
  const std::unique_ptr<Database> reader_ ABSL_PT_GUARDED_BY(reader_mutex_);
};

}  // namespace mindforge
