#include "tests/cli/program.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/time/clock.h"
#include "common/check.h"

namespace mindforge::cli {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(10);

std::string Binary() {
  const char* folder = std::getenv("MINDFORGE_BIN");
  MF_CHECK(folder != nullptr) << "ctest sets MINDFORGE_BIN to the programs' folder";
  return std::string(folder) + "/mindforge";
}

struct Pipe {
  int read = -1, write = -1;
};

Pipe MakePipe() {
  int fds[2];
  MF_CHECK_EQ(pipe2(fds, O_CLOEXEC), 0);
  return {fds[0], fds[1]};
}

[[noreturn]] void Exec(const ProgramOptions& options, int in, int out, int err) {
  dup2(in, 0);
  dup2(out, 1);
  dup2(err, 2);
  signal(SIGPIPE, SIG_DFL);  // a test runner may ignore it; a shell does not
  if (!options.working_directory.empty() && chdir(options.working_directory.c_str()) != 0) {
    _exit(126);
  }
  for (const char* name : {"MINDFORGE_SERVER", "MINDFORGE_TOKEN_FILE", "NO_COLOR", "COLUMNS"}) {
    unsetenv(name);
  }
  for (const std::string& entry : options.environment) putenv(const_cast<char*>(entry.c_str()));
  const std::string binary = Binary();
  std::vector<char*> argv = {const_cast<char*>("mindforge")};
  for (const std::string& argument : options.arguments) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  argv.push_back(nullptr);
  execv(binary.c_str(), argv.data());
  _exit(127);
}

}  // namespace

Program::Program(const ProgramOptions& options) {
  Pipe in, out, err;
  if (options.keyboard) {
    MF_CHECK_EQ(openpty(&in.write, &in.read, nullptr, nullptr, nullptr), 0);
    fcntl(in.read, F_SETFD, FD_CLOEXEC);
    fcntl(in.write, F_SETFD, FD_CLOEXEC);
    keyboard_ = in.write;
  } else {
    in = MakePipe();
  }
  if (options.terminal) {
    winsize size = {.ws_row = 24, .ws_col = static_cast<unsigned short>(options.terminal_width)};
    MF_CHECK_EQ(openpty(&out.read, &out.write, nullptr, nullptr, &size), 0);
    fcntl(out.read, F_SETFD, FD_CLOEXEC);
    fcntl(out.write, F_SETFD, FD_CLOEXEC);
    err.write = out.write;
  } else {
    out = MakePipe();
    err = MakePipe();
  }
  if (options.reader_gone) {
    close(out.read);
    out.read = open("/dev/null", O_RDONLY | O_CLOEXEC);
  }
  pid_ = fork();
  MF_CHECK(pid_ >= 0);
  if (pid_ == 0) Exec(options, in.read, out.write, err.write);
  close(in.read);
  close(out.write);
  if (!options.terminal) close(err.write);
  // What tests give fits into a pipe's buffer: this does not block.
  MF_CHECK_EQ(write(in.write, options.standard_input.data(), options.standard_input.size()),
              static_cast<ssize_t>(options.standard_input.size()));
  if (!options.keyboard) close(in.write);
  {
    MutexLock lock(mutex_);
    open_ = options.terminal ? 1 : 2;
  }
  readers_.emplace_back([this, fd = out.read] { Read(fd, &Program::out_); });
  if (!options.terminal) {
    readers_.emplace_back([this, fd = err.read] { Read(fd, &Program::err_); });
  }
}

Program::~Program() {
  if (exit_ < 0) {
    Signal(SIGKILL);
    Wait();
  }
  if (keyboard_ >= 0) close(keyboard_);
}

void Program::Type(const std::string& keys) {
  MF_CHECK_EQ(write(keyboard_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
}

void Program::Read(int fd, std::string Program::*into) {
  char buffer[4096];
  ssize_t got;
  while ((got = read(fd, buffer, sizeof(buffer))) > 0) {
    MutexLock lock(mutex_);
    (this->*into).append(buffer, got);
    changed_.SignalAll();
  }
  close(fd);
  MutexLock lock(mutex_);
  --open_;
  changed_.SignalAll();
}

bool Program::WaitForText(const std::string& text, std::string Program::*in) {
  MutexLock lock(mutex_);
  changed_.WaitFor(mutex_, kPatience, [&] {
    mutex_.AssertHeld();
    return open_ == 0 || (this->*in).find(text) != std::string::npos;
  });
  return (this->*in).find(text) != std::string::npos;
}

bool Program::WaitForOut(const std::string& text) { return WaitForText(text, &Program::out_); }
bool Program::WaitForErr(const std::string& text) { return WaitForText(text, &Program::err_); }

void Program::Signal(int signal) {
  if (exit_ < 0) kill(pid_, signal);
}

int Program::Wait() {
  if (exit_ >= 0) return exit_;
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
  pollfd ended = {.fd = fd, .events = POLLIN, .revents = 0};
  const bool killed = poll(&ended, 1, 20000) != 1;
  if (killed) kill(pid_, SIGKILL);
  close(fd);
  int status = 0;
  waitpid(pid_, &status, 0);
  for (std::thread& reader : readers_) reader.join();
  exit_ = killed ? 255 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return exit_;
}

std::string Program::out() {
  MutexLock lock(mutex_);
  return out_;
}

std::string Program::err() {
  MutexLock lock(mutex_);
  return err_;
}

Result RunProgram(const ProgramOptions& options) {
  Program program(options);
  const int exit = program.Wait();
  return {.exit = exit, .out = program.out(), .err = program.err()};
}

}  // namespace mindforge::cli
