// How a job's training looks while it goes on: one line redrawn where the terminal takes that, one
// line every log interval elsewhere. It knows no server.
#pragma once

#include <ostream>
#include <string>

#include "absl/time/time.h"
#include "cli/terminal.h"
#include "mindforge/v1/types.pb.h"

namespace mindforge::cli {

// Draws jobs and their steps on one stream. Not thread-safe.
class ProgressView {
 public:
  // `quiet` draws nothing (--wait).
  ProgressView(std::ostream& out, Terminal terminal, bool quiet);

  // The job as it is now: a change of state or reason is a line of its own.
  void OnJob(const v1::Job& job);
  // From here on the job's own progress counts as steps too: there is no stream of records. It
  // knows less than a record and skips steps, so it is the second choice.
  void UseJobProgress() { use_job_progress_ = true; }
  // One finished step.
  void OnStep(const v1::ProgressRecord& record);
  // A line of talk between redraws.
  void Say(const std::string& line);
  // Ends the redrawn line; prints the last step where its line was not due yet.
  void Finish();

  // The reference's look, for people who know it, with what it lacks behind it.
  static std::string LogLine(const v1::JobSpec& spec, const v1::ProgressRecord& record,
                             absl::Duration time_left);
  // At most `width` columns (0: no limit).
  static std::string BarLine(const v1::Job& job, const v1::ProgressRecord& record,
                             absl::Duration time_left, int width);

 private:
  void Draw();
  void Clear();
  absl::Duration TimeLeft() const;

  std::ostream& out_;
  const Terminal terminal_;
  const bool quiet_;
  v1::Job job_;
  v1::ProgressRecord last_;
  bool has_step_ = false;
  bool use_job_progress_ = false;
  bool drawn_ = false;         // the redrawn line is on the terminal
  int64_t printed_step_ = -1;  // newest step that has its own line
  double step_seconds_ = 0;    // smoothed
};

}  // namespace mindforge::cli
