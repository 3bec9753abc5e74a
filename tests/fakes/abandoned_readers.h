// Clients that open streams and leave, are killed, half close their connection, or stop reading: as
// a process of its own, so that what is left in the server can be counted in this one.
#pragma once

#include <malloc.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/subprocess.h"
#include "gtest/gtest.h"
#include "tests/fakes/eventually.h"

namespace mindforge {

inline constexpr const char* kWaysToAbandon[] = {"closed", "killed", "half-closed", "silent"};

// Enough to see a leak; MINDFORGE_ABANDONED=1000 for the whole of it.
inline int AbandonedCount() {
  const char* const asked = std::getenv("MINDFORGE_ABANDONED");
  return asked == nullptr ? 20 : std::atoi(asked);
}

// A stream and its connection have some 40 KiB.
inline constexpr int64_t kKeptBytesPerStream = 1 << 10;

inline int OpenFds() {
  int count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    ++count;
  }
  return count;
}

// What is allocated and not freed, whatever the allocator keeps for later. 0 under a sanitizer.
inline int64_t LiveBytes() {
  const struct mallinfo2 info = ::mallinfo2();
  return static_cast<int64_t>(info.uordblks + info.hblkhd);
}

// Opens `count` streams of `kind` and abandons them in one of the ways. The process that still
// holds them when they are silent or half-closed; it ends with the pointer.
inline std::unique_ptr<Subprocess> Abandon(const std::string& address, const std::string& kind,
                                           const std::string& way, int count) {
  const std::string program =
      std::string(std::getenv("MINDFORGE_BIN")) + "/../tests/abandoned_readers";
  auto child = Subprocess::Spawn({.argv = {program, address, kind, std::to_string(count), way}});
  MF_CHECK_OK(child);
  std::string said;
  char buffer[256];
  while (said.find("ready") == std::string::npos) {
    const ssize_t got = ::read((*child)->output_fd(), buffer, sizeof(buffer));
    MF_CHECK(got > 0) << "the readers have died: " << said;
    said.append(buffer, got);
  }
  if (way == "killed") (*child)->Kill(SIGKILL);
  if (way == "killed" || way == "closed") (*child)->Wait();
  return *std::move(child);
}

struct AbandonedOptions {
  // Called over and over while the streams are waited for: may make them have something to say.
  std::function<void()> meanwhile = [] {};
  // What else in this process may have grown: the job's own history does, by up to some MiB when
  // it must go on for a minute. Of a thousand streams that stayed it would be tens.
  int64_t kept_bytes = 8 << 20;
};

// Abandons streams and waits until this process has the descriptors and the memory that it had; for
// people, prints what that cost.
inline bool IsAsBeforeAfter(const std::string& address, const std::string& kind,
                            const std::string& way, const AbandonedOptions& options = {}) {
  const int count = AbandonedCount();
  Abandon(address, kind, "closed", 1);  // what is made once is made now
  options.meanwhile();                  // and its connection is open now as it will be then
  int before = OpenFds();
  Eventually([&] { return std::exchange(before, OpenFds()) <= OpenFds(); });
  const int64_t memory = LiveBytes();
  const absl::Time start = absl::Now();
  auto readers = Abandon(address, kind, way, count);
  if (way == "closed" || way == "killed") {
    readers.reset();
  } else {
    before += 2;  // those of `readers`: its output, its process
  }
  const absl::Time abandoned = absl::Now();
  // Caches grow with the most streams that ever were at once, by far less than a stream has.
  const int64_t kept = int64_t{count} * kKeptBytesPerStream + options.kept_bytes;
  const bool back = Eventually([&] {
    options.meanwhile();
    return OpenFds() <= before && LiveBytes() <= memory + kept;
  });
  std::printf("%5d %-9s %-12s fds %d -> %d, memory %+.1f MiB, opened in %s, gone after %s\n", count,
              kind.c_str(), way.c_str(), before, OpenFds(),
              static_cast<double>(LiveBytes() - memory) / (1 << 20),
              absl::FormatDuration(abandoned - start).c_str(),
              absl::FormatDuration(absl::Now() - abandoned).c_str());
  return back;
}

// A drain that took `took` waited for none of the `count` readers. A thousand are let go within 1 s
// where nothing else runs (0.3 to 0.9 s on two cores); the allowance is for a machine that gives us
// a tenth of that, and still far from the 30 s after which readers are given up anyhow.
inline void ExpectQuickDrain(absl::Duration took, int count) {
  std::printf("drained %d silent readers in %s\n", count, absl::FormatDuration(took).c_str());
  EXPECT_LT(took, absl::Seconds(10));
}

}  // namespace mindforge
