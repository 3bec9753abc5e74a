// A child process that dies with its parent.
//
// PR_SET_PDEATHSIG fires when the THREAD that spawned the child ends, not only the process: call
// Spawn from a thread that outlives the child (the agent's main loop).
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "common/unique_fd.h"

namespace mindforge {

// How a process ended.
struct ExitStatus {
  int code = 0;    // when it exited by itself
  int signal = 0;  // the signal that killed it, else 0

  bool ok() const { return code == 0 && signal == 0; }
  // "exited with code 3", "was killed by signal 9 (Killed)".
  std::string ToString() const;
  friend bool operator==(const ExitStatus&, const ExitStatus&) = default;
};

struct SubprocessOptions {
  std::vector<std::string> argv;  // argv[0] is looked up in PATH unless it has a slash
  std::vector<std::string> env;   // "NAME=value", added to or replacing the parent's
  // {our descriptor, its number in the child}. All others above 2 are closed in the child.
  std::vector<std::pair<int, int>> fds;
  // stdout and stderr go to one pipe, read at output_fd(); else they are inherited.
  bool capture_output = true;
  bool die_with_parent = true;
};

// A running or ended child process. Thread-safe. The destructor kills (SIGKILL) and reaps it.
class Subprocess {
 public:
  // NOT_FOUND, PERMISSION_DENIED… when the program cannot be executed. stdin is /dev/null.
  static absl::StatusOr<std::unique_ptr<Subprocess>> Spawn(const SubprocessOptions& options);
  ~Subprocess();
  Subprocess(const Subprocess&) = delete;
  Subprocess& operator=(const Subprocess&) = delete;

  pid_t pid() const { return pid_; }
  // Read end of the child's stdout and stderr, -1 when not captured. Ends (EOF) when all who hold
  // the other end are gone.
  int output_fd() const { return output_.get(); }

  // Sends a signal; false when the child has been reaped already.
  bool Kill(int signal);

  // Each reaps the child and may be called again: the answer stays.
  ExitStatus Wait();
  std::optional<ExitStatus> TryWait();
  // Nothing when the time ran out.
  std::optional<ExitStatus> WaitFor(absl::Duration timeout);

 private:
  Subprocess(pid_t pid, UniqueFd output, UniqueFd pidfd);

  const pid_t pid_;
  const UniqueFd output_;
  const UniqueFd pidfd_;  // readable once the child has ended
  Mutex mutex_;
  std::optional<ExitStatus> exit_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mindforge
