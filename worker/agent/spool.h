// What this worker has to tell the coordinator and has not yet had acknowledged: steps, log lines,
// checkpoints, corruptions. Each is numbered, sent oldest first until acknowledged, and bounded.
//
// A SpoolFile keeps a copy of it: the agent that comes after a killed one tells what was left.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "mindforge/v1/worker_agent_service.pb.h"
#include "worker/agent/spool_file.h"

namespace mindforge {

struct SpoolLimits {
  size_t progress = 100'000;
  size_t logs = 20'000;
  size_t log_bytes = 16 << 20;
  size_t checkpoints = 10'000;
  // A call carries at most so many records and lines, and so many bytes of lines.
  int records_a_call = 1000;
  size_t log_bytes_a_call = 4 << 20;
};

// Not thread-safe: the agent's mutex guards it. Borrows the file; null: it lives in memory alone.
class Spool {
 public:
  // Begins with what the file holds.
  explicit Spool(SpoolFile* file = nullptr, SpoolLimits limits = {});

  // When full the oldest go first and are counted; each run of dropped log lines is told of by one
  // line in their place.
  void AddProgress(const std::string& job_id, const v1::ProgressRecord& record);
  void AddLog(const std::string& job_id, const v1::LogLine& line);
  // Does nothing when the same folder waits already, found by the agent before its trainer told of
  // it or the other way round, unless this report says that it is final and that one does not.
  void AddCheckpoint(const std::string& job_id, const v1::CheckpointWritten& checkpoint);
  void AddCorruption(const std::string& job_id, const v1::CheckpointCorrupt& corruption);

  // Puts the oldest into `request`. True when more is waiting than one call carries.
  bool Fill(v1::SynchronizeRequest* request) const;

  // Forgets all up to the acknowledged numbers. Returns the checkpoints among them.
  std::vector<v1::SpooledCheckpoint> Acknowledge(const v1::SynchronizeResponse& response);

  bool empty() const;
  int64_t dropped_progress() const { return dropped_progress_; }
  int64_t dropped_logs() const { return dropped_logs_; }
  size_t progress_waiting() const { return progress_.size(); }
  size_t checkpoints_waiting() const { return checkpoints_.size(); }
  size_t logs_waiting() const { return logs_.size(); }

 private:
  void Restore(SpoolKind kind, std::string_view bytes);
  // True when a segment of the file was begun with it.
  template <typename Spooled>
  bool Append(SpoolKind kind, const Spooled& spooled);
  void Push(v1::SpooledProgress spooled);
  void Push(v1::SpooledLog spooled);
  void DropOldestLog();
  void ForgetInFile();
  // Writes what waits long and is little into the segment just begun, so that the older ones can
  // go.
  void CarryOver();
  template <typename Spooled>
  void CarryOver(SpoolKind kind, const std::deque<Spooled>& queue);

  SpoolFile* const file_;
  const SpoolLimits limits_;
  SpoolNumbers used_;
  std::deque<v1::SpooledProgress> progress_;
  std::deque<v1::SpooledLog> logs_;
  std::deque<v1::SpooledCheckpoint> checkpoints_;
  std::deque<v1::SpooledCorruption> corruptions_;
  size_t log_bytes_ = 0;
  int64_t dropped_progress_ = 0, dropped_logs_ = 0;
  // The newest dropped line and how many were dropped in a row before the oldest one kept.
  int64_t gap_lines_ = 0;
  v1::SpooledLog gap_;
};

}  // namespace mindforge
