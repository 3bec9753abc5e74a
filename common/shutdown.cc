#include "common/shutdown.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include "common/check.h"
#include "common/logging.h"

namespace mindforge {
namespace {

// A signal handler can reach nothing but globals.
std::atomic<int> handler_fd{-1};
std::atomic<int> signals_seen{0};
std::atomic<bool> interrupts_taken{false};

void HandleSignal(int number) {
  const int saved_errno = errno;
  const bool taken = number == SIGINT && interrupts_taken.load();
  if (!taken && signals_seen.fetch_add(1) > 0) _exit(128 + number);
  const char byte = static_cast<char>(number);
  [[maybe_unused]] const ssize_t ignored = ::write(handler_fd.load(), &byte, 1);
  errno = saved_errno;
}

void Install(int number, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  MF_CHECK_EQ(sigaction(number, &action, nullptr), 0);
}

}  // namespace

Shutdown::Shutdown() {
  int ends[2];
  MF_CHECK_EQ(pipe2(ends, O_CLOEXEC), 0) << "no descriptors left at start";
  read_end_.Reset(ends[0]);
  write_end_.Reset(ends[1]);
  MF_CHECK_EQ(handler_fd.exchange(write_end_.get()), -1) << "one Shutdown per process";
  signals_seen = 0;
  interrupts_taken = false;
  Install(SIGPIPE, SIG_IGN);
  Install(SIGTERM, HandleSignal);
  Install(SIGINT, HandleSignal);
  thread_ = std::thread([this] { Run(); });
}

Shutdown::~Shutdown() {
  Install(SIGTERM, SIG_DFL);
  Install(SIGINT, SIG_DFL);
  handler_fd = -1;
  write_end_.Reset();  // Run reads the end of the pipe
  thread_.join();
}

void Shutdown::Run() {
  char byte;
  while (true) {
    const ssize_t got = ::read(read_end_.get(), &byte, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return;
    if (byte == SIGINT && Interrupted()) continue;
    if (byte != 0) {
      MF_LOG(INFO) << "signal " << static_cast<int>(byte)
                   << ": stopping cleanly; a second one stops at once";
    }
    std::vector<std::function<void()>> callbacks;
    {
      MutexLock lock(mutex_);
      requested_ = true;
      callbacks.swap(callbacks_);
      changed_.SignalAll();
    }
    for (const auto& callback : callbacks) callback();
  }
}

bool Shutdown::Interrupted() {
  MutexLock lock(interrupt_mutex_);
  if (on_interrupt_ == nullptr) return false;
  on_interrupt_();
  return true;
}

void Shutdown::TakeInterrupts(std::function<void()> callback) {
  interrupts_taken = callback != nullptr;
  MutexLock lock(interrupt_mutex_);
  on_interrupt_ = std::move(callback);
}

bool Shutdown::requested() const {
  MutexLock lock(mutex_);
  return requested_;
}

void Shutdown::Wait() {
  MutexLock lock(mutex_);
  while (!requested_) changed_.Wait(mutex_);
}

bool Shutdown::WaitFor(absl::Duration timeout) {
  MutexLock lock(mutex_);
  return changed_.WaitFor(mutex_, timeout, [&] {
    mutex_.AssertHeld();
    return requested_;
  });
}

void Shutdown::OnRequest(std::function<void()> callback) {
  {
    MutexLock lock(mutex_);
    if (!requested_) {
      callbacks_.push_back(std::move(callback));
      return;
    }
  }
  callback();
}

void Shutdown::Request() {
  const char byte = 0;
  MF_CHECK_EQ(::write(write_end_.get(), &byte, 1), 1) << "the pipe holds more than two bytes";
}

}  // namespace mindforge
