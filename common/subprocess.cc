#include "common/subprocess.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/deadline.h"
#include "common/durable_file.h"
#include "common/status_macros.h"

extern char** environ;

namespace mindforge {
namespace {

// Descriptors are parked here and above while the child's low numbers are dealt out.
constexpr int kParkedFd = 200;

std::string FindProgram(const std::string& name) {
  if (name.find('/') != std::string::npos) return name;
  const char* const path = ::getenv("PATH");
  for (const auto& folder :
       absl::StrSplit(path == nullptr ? "/usr/local/bin:/usr/bin:/bin" : path, ':')) {
    std::string candidate = JoinPath(std::string(folder), name);
    if (::access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return name;
}

std::vector<std::string> MergedEnvironment(const std::vector<std::string>& extra) {
  std::map<std::string, std::string> merged;
  const auto add = [&](const std::string& entry) {
    merged[entry.substr(0, entry.find('='))] = entry;
  };
  for (char** entry = environ; *entry != nullptr; ++entry) add(*entry);
  for (const std::string& entry : extra) add(entry);
  std::vector<std::string> result;
  for (auto& [name, entry] : merged) result.push_back(entry);
  return result;
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

// All that the child needs, made before fork: between fork and exec only async-signal-safe calls
// are allowed, so nothing there may allocate.
struct ChildPlan {
  const char* program;
  char** argv;
  char** envp;
  const std::pair<int, int>* fds;
  size_t fd_count;
  int output;  // -1: inherited
  int error_pipe;
  bool die_with_parent;
  pid_t parent;
};

[[noreturn]] void FailChild(int error_pipe) {
  const int error = errno;
  [[maybe_unused]] const ssize_t ignored = ::write(error_pipe, &error, sizeof(error));
  _exit(127);
}

void ResetSignals() {
  // The parent may ignore or block signals (SIGPIPE); exec would hand that on.
  sigset_t none;
  sigemptyset(&none);
  for (int number = 1; number < 32; ++number) {
    if (number != SIGKILL && number != SIGSTOP) ::signal(number, SIG_DFL);
  }
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

// Gives the child its numbered descriptors and marks all others to be closed by exec.
void DealDescriptors(const ChildPlan& plan, int error_pipe, int* parked) {
  for (size_t i = 0; i < plan.fd_count; ++i) {
    parked[i] = fcntl(plan.fds[i].first, F_DUPFD_CLOEXEC, kParkedFd);
    if (parked[i] < 0) FailChild(error_pipe);
  }
  const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (null < 0 || dup2(null, STDIN_FILENO) < 0) FailChild(error_pipe);
  if (plan.output >= 0 &&
      (dup2(plan.output, STDOUT_FILENO) < 0 || dup2(plan.output, STDERR_FILENO) < 0)) {
    FailChild(error_pipe);
  }
  if (::syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC) != 0) {
    for (int fd = 3; fd < 65536; ++fd) fcntl(fd, F_SETFD, FD_CLOEXEC);  // Linux before 5.11
  }
  for (size_t i = 0; i < plan.fd_count; ++i) {
    if (dup2(parked[i], plan.fds[i].second) < 0) FailChild(error_pipe);
  }
}

[[noreturn]] void RunChild(const ChildPlan& plan, int* parked) {
  const int error_pipe = fcntl(plan.error_pipe, F_DUPFD_CLOEXEC, kParkedFd);
  if (error_pipe < 0) FailChild(plan.error_pipe);
  if (plan.die_with_parent) {
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) FailChild(error_pipe);
    // The parent may have died before the request took hold.
    if (getppid() != plan.parent) _exit(127);
  }
  DealDescriptors(plan, error_pipe, parked);
  ResetSignals();
  ::execve(plan.program, plan.argv, plan.envp);
  FailChild(error_pipe);
}

absl::Status MakePipe(UniqueFd* read_end, UniqueFd* write_end) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "cannot make", "a pipe");
  read_end->Reset(ends[0]);
  write_end->Reset(ends[1]);
  return absl::OkStatus();
}

}  // namespace

std::string ExitStatus::ToString() const {
  if (signal == 0) return absl::StrCat("exited with code ", code);
  return absl::StrCat("was killed by signal ", signal, " (", strsignal(signal), ")");
}

absl::StatusOr<std::unique_ptr<Subprocess>> Subprocess::Spawn(const SubprocessOptions& options) {
  if (options.argv.empty()) return absl::InvalidArgumentError("no program to start");
  const std::string program = FindProgram(options.argv[0]);
  std::vector<std::string> argv = options.argv;
  std::vector<std::string> env = MergedEnvironment(options.env);
  std::vector<char*> argv_pointers = Pointers(argv);
  std::vector<char*> env_pointers = Pointers(env);
  std::vector<int> parked(options.fds.size() + 1);
  UniqueFd error_read, error_write, output_read, output_write;
  RETURN_IF_ERROR(MakePipe(&error_read, &error_write));
  if (options.capture_output) RETURN_IF_ERROR(MakePipe(&output_read, &output_write));
  const ChildPlan plan{.program = program.c_str(),
                       .argv = argv_pointers.data(),
                       .envp = env_pointers.data(),
                       .fds = options.fds.data(),
                       .fd_count = options.fds.size(),
                       .output = output_write.get(),
                       .error_pipe = error_write.get(),
                       .die_with_parent = options.die_with_parent,
                       .parent = getpid()};
  // No handler of the parent's may run in the child before its signals are reset.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t pid = fork();
  if (pid == 0) RunChild(plan, parked.data());
  const int fork_error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return ErrnoStatus(fork_error, "cannot start", program);
  error_write.Reset();
  output_write.Reset();
  int error = 0;
  ssize_t got;
  do {
    got = ::read(error_read.get(), &error, sizeof(error));
  } while (got < 0 && errno == EINTR);
  if (got == sizeof(error)) {
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    return ErrnoStatus(error, "cannot start", program);
  }
  UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  return std::unique_ptr<Subprocess>(new Subprocess(pid, std::move(output_read), std::move(pidfd)));
}

Subprocess::Subprocess(pid_t pid, UniqueFd output, UniqueFd pidfd)
    : pid_(pid), output_(std::move(output)), pidfd_(std::move(pidfd)) {}

Subprocess::~Subprocess() {
  Kill(SIGKILL);
  Wait();
}

bool Subprocess::Kill(int signal) {
  MutexLock lock(mutex_);
  // Under the lock the child is not reaped, so the number is still its own.
  return !exit_ && ::kill(pid_, signal) == 0;
}

std::optional<ExitStatus> Subprocess::TryWait() {
  MutexLock lock(mutex_);
  if (exit_) return exit_;
  int status = 0;
  const pid_t reaped = waitpid(pid_, &status, WNOHANG);
  if (reaped != pid_) return std::nullopt;
  exit_ = WIFSIGNALED(status) ? ExitStatus{.signal = WTERMSIG(status)}
                              : ExitStatus{.code = WEXITSTATUS(status)};
  return exit_;
}

ExitStatus Subprocess::Wait() { return *WaitFor(absl::InfiniteDuration()); }

std::optional<ExitStatus> Subprocess::WaitFor(absl::Duration timeout) {
  const Deadline deadline(timeout);
  while (true) {
    if (const auto exit = TryWait()) return exit;
    const absl::Duration left = deadline.Left();
    if (left <= absl::ZeroDuration()) return std::nullopt;
    // Without a pidfd (Linux before 5.3) the wait is a poll in small steps.
    const absl::Duration step = pidfd_.valid() ? absl::Minutes(1) : absl::Milliseconds(5);
    const int64_t wait_ms =
        absl::ToInt64Milliseconds(absl::Ceil(std::min(left, step), absl::Milliseconds(1)));
    pollfd entry{pidfd_.get(), POLLIN, 0};
    poll(&entry, 1, static_cast<int>(wait_ms));
  }
}

}  // namespace mindforge
