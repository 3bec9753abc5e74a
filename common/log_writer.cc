#include "common/log_writer.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace mindforge {
namespace {

constexpr absl::Duration kLastLines = absl::Seconds(1);
// A pipe that polls as writable takes so much without waiting (PIPE_BUF).
constexpr size_t kAtOnce = 4096;

}  // namespace

LogWriter::LogWriter(int fd, size_t max_bytes, std::function<std::string(int64_t)> told)
    : fd_(fd),
      max_bytes_(max_bytes),
      told_(std::move(told)),
      stop_(eventfd(0, EFD_CLOEXEC)),
      thread_([this] { Run(); }) {}

LogWriter::~LogWriter() {
  Flush(kLastLines);
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    taken_.SignalAll();
  }
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t ignored = ::write(stop_.get(), &one, sizeof(one));
  thread_.join();
}

void LogWriter::Write(std::string line) {
  MutexLock lock(mutex_);
  if (bytes_ + line.size() > max_bytes_) {
    ++dropped_;
    return;
  }
  bytes_ += line.size();
  lines_.push_back(std::move(line));
  taken_.Signal();
}

bool LogWriter::Flush(absl::Duration timeout) {
  MutexLock lock(mutex_);
  return written_.WaitFor(mutex_, timeout, [this] {
    mutex_.AssertHeld();
    return bytes_ == 0 && dropped_ == 0;
  });
}

void LogWriter::Run() {
  pthread_setname_np(pthread_self(), "log");
  while (true) {
    std::string text;
    {
      MutexLock lock(mutex_);
      while (lines_.empty() && dropped_ == 0 && !stopping_) taken_.Wait(mutex_);
      if (stopping_) return;
      for (const std::string& line : lines_) text += line;
      lines_.clear();
      if (dropped_ > 0) text += told_(std::exchange(dropped_, 0));
    }
    if (!WriteAll(text)) return;
    MutexLock lock(mutex_);
    bytes_ = 0;
    for (const std::string& line : lines_) bytes_ += line.size();
    written_.SignalAll();
  }
}

bool LogWriter::WriteAll(const std::string& text) {
  for (size_t at = 0; at < text.size();) {
    pollfd ready[2] = {{fd_, POLLOUT, 0}, {stop_.get(), POLLIN, 0}};
    if (::poll(ready, 2, -1) < 0 && errno != EINTR) return false;
    if (ready[1].revents != 0) return false;
    if (ready[0].revents == 0) continue;
    const ssize_t wrote = ::write(fd_, text.data() + at, std::min(kAtOnce, text.size() - at));
    if (wrote > 0) at += wrote;
    // Nobody reads any more: there is no place left to say so.
    if (wrote < 0 && errno != EINTR && errno != EAGAIN) return true;
  }
  return true;
}

}  // namespace mindforge
