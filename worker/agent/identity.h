// What an agent keeps on disk: its id, a lock so that no second agent uses the folder, and the jobs
// that its trainers were working on, so that after a crash their finished checkpoints are found.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/unique_fd.h"
#include "worker/agent/spool_file.h"

namespace mindforge {

// The agent's data folder, locked while it lives. Not thread-safe.
class Identity {
 public:
  // Makes the folder and draws an id at the first start. ALREADY_EXISTS: another agent has it;
  // the message names --data-dir.
  static absl::StatusOr<std::unique_ptr<Identity>> Open(const std::string& data_dir);

  const std::string& worker_id() const { return worker_id_; }
  SpoolFile& spool_file() { return *spool_file_; }

  // The folder of each job's checkpoints, as of the last SetJobs before this start.
  const std::map<std::string, std::string>& jobs_before() const { return jobs_before_; }
  // Replaces what is remembered; durable on OK. Nothing is written when nothing changed.
  absl::Status SetJobs(const std::map<std::string, std::string>& jobs);

 private:
  Identity(std::string data_dir, UniqueFd lock)
      : data_dir_(std::move(data_dir)), lock_(std::move(lock)) {}
  absl::Status Load();

  const std::string data_dir_;
  const UniqueFd lock_;
  std::string worker_id_;
  std::unique_ptr<SpoolFile> spool_file_;
  std::map<std::string, std::string> jobs_before_;
  std::map<std::string, std::string> jobs_;
};

}  // namespace mindforge
