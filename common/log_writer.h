// The thread that writes log lines: whoever logs holds locks that others wait for, and stderr may
// be a pipe that nobody empties. What finds no room is dropped and counted.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "common/mutex.h"
#include "common/unique_fd.h"

namespace mindforge {

// Thread-safe.
class LogWriter {
 public:
  // Borrows `fd`. `told` makes the line that says how many lines were dropped. Lines of more than
  // `max_bytes` together never wait.
  LogWriter(int fd, size_t max_bytes, std::function<std::string(int64_t dropped)> told);
  // Gives up what has not been written within a second.
  ~LogWriter();
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;

  // Takes a line, its newline included. Never waits.
  void Write(std::string line);

  // Waits until all that was taken is written; false when that took longer.
  bool Flush(absl::Duration timeout);

 private:
  void Run();
  // False: the writer stops.
  bool WriteAll(const std::string& text);

  const int fd_;
  const size_t max_bytes_;
  const std::function<std::string(int64_t)> told_;
  UniqueFd stop_;  // readable once the destructor waits no longer
  Mutex mutex_;
  CondVar taken_, written_;
  std::deque<std::string> lines_ ABSL_GUARDED_BY(mutex_);
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of lines_ and of what is being written
  int64_t dropped_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // Last: uses all of the above.
};

// Waits for the lines that this process has logged so far, before it ends itself. At most a second:
// a stderr that nobody reads keeps no process alive.
void FlushLog();

}  // namespace mindforge
