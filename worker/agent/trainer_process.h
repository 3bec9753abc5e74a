// A trainer as its agent sees it: a child process with a socketpair on descriptor 3 (orders down,
// reports up, mindforge/v1/trainer.proto), its stderr as lines, and, for rank 0, the listening
// socket of the generation's store on descriptor 4.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/frame.h"
#include "common/subprocess.h"
#include "common/unique_fd.h"
#include "mindforge/v1/trainer.pb.h"

namespace mindforge {

// What is heard of a trainer. Called on the process's own threads: on_report and on_line while it
// runs, on_exit last and once, when both streams have been read to their ends; `why_killed` is not
// empty when this class killed the trainer for what it did.
struct TrainerEvents {
  std::function<void(const v1::TrainerReport&)> on_report;
  std::function<void(std::string_view line)> on_line;
  std::function<void(const ExitStatus&, const std::string& why_killed)> on_exit;
};

// A running or ended trainer. Send and Kill are thread-safe. The destructor kills it and waits
// until on_exit has returned: never hold in it a lock that the events take.
class TrainerProcess {
 public:
  // Starts `program` and hands it `start`. The calling thread must outlive the trainer, which the
  // kernel kills with it. `store_socket` -1: none. Between closing its reports and being gone a
  // trainer frees its memory; it is killed when that takes longer than `exit_timeout`.
  static absl::StatusOr<std::unique_ptr<TrainerProcess>> Start(const std::string& program,
                                                               const v1::StartTraining& start,
                                                               int store_socket,
                                                               TrainerEvents events,
                                                               absl::Duration exit_timeout);
  ~TrainerProcess();
  TrainerProcess(const TrainerProcess&) = delete;
  TrainerProcess& operator=(const TrainerProcess&) = delete;

  pid_t pid() const { return process_->pid(); }
  // Fails when the trainer is gone or does not read.
  absl::Status Send(const v1::TrainerOrder& order);
  void Kill();

 private:
  TrainerProcess(std::unique_ptr<Subprocess> process, UniqueFd socket, TrainerEvents events,
                 absl::Duration exit_timeout);
  void ReadReports();
  void ReadOutput();

  const std::unique_ptr<Subprocess> process_;
  const UniqueFd socket_;
  const TrainerEvents events_;
  const absl::Duration exit_timeout_;
  FrameWriter writer_;
  std::atomic<bool> exited_ = false;
  std::thread output_thread_;   // reads stderr, which may say something at any time
  std::thread reports_thread_;  // reads reports, then waits for the exit; joins output_thread_
};

}  // namespace mindforge
