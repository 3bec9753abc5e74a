// The real `mindforge` binary as a child process, with its streams apart.
#pragma once

#include <sys/types.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "common/mutex.h"

namespace mindforge::cli {

struct ProgramOptions {
  std::vector<std::string> arguments;
  std::vector<std::string> environment;  // "NAME=value", added to ours
  std::string standard_input;
  bool keyboard = false;          // stdin is a terminal of its own: see Type()
  std::string working_directory;  // empty: ours
  bool terminal = false;          // stdout and stderr are one pseudo-terminal: see out()
  int terminal_width = 80;
  bool reader_gone = false;  // nobody reads stdout, from the start on
};

// One run. The destructor kills and reaps what is still there.
class Program {
 public:
  explicit Program(const ProgramOptions& options);
  ~Program();

  // Waits until stdout or stderr holds `text`; false when it ended or took 10 s without.
  bool WaitForOut(const std::string& text);
  bool WaitForErr(const std::string& text);
  // As if typed; Ctrl-D is "\x04". REQUIRES: ProgramOptions::keyboard.
  void Type(const std::string& keys);
  void Signal(int signal);
  // Exit status, or 128 + the signal; 255 when it had to be killed after 20 s.
  int Wait();

  std::string out();
  std::string err();

 private:
  void Read(int fd, std::string Program::*into);
  bool WaitForText(const std::string& text, std::string Program::*in);

  pid_t pid_ = -1;
  int keyboard_ = -1;
  int exit_ = -1;
  Mutex mutex_;
  CondVar changed_;
  std::string out_ ABSL_GUARDED_BY(mutex_);
  std::string err_ ABSL_GUARDED_BY(mutex_);
  int open_ ABSL_GUARDED_BY(mutex_) = 0;  // streams that have not ended
  std::vector<std::thread> readers_;
};

struct Result {
  int exit = 0;
  std::string out;
  std::string err;
};

// Runs to the end.
Result RunProgram(const ProgramOptions& options);

}  // namespace mindforge::cli
