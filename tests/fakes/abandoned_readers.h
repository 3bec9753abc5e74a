// Clients that open streams and leave, are killed, half close their connection, or stop reading: as
// a process of its own, so that what is left in the server can be counted in this one.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/subprocess.h"
#include "tests/fakes/eventually.h"

namespace mindforge {

inline constexpr const char* kWaysToAbandon[] = {"closed", "killed", "half-closed", "silent"};

// Enough to see a leak; MINDFORGE_ABANDONED=1000 for the whole of it.
inline int AbandonedCount() {
  const char* const asked = std::getenv("MINDFORGE_ABANDONED");
  return asked == nullptr ? 20 : std::atoi(asked);
}

inline int OpenFds() {
  int count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    ++count;
  }
  return count;
}

inline int64_t ResidentBytes() {
  int64_t pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * sysconf(_SC_PAGESIZE);
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

// Abandons streams and waits until this process has the descriptors that it had; for people, prints
// what that cost.
inline bool IsAsBeforeAfter(const std::string& address, const std::string& kind,
                            const std::string& way) {
  const int count = AbandonedCount();
  Abandon(address, kind, "closed", 1);  // what is made once is made now
  int before = OpenFds();
  Eventually([&] { return std::exchange(before, OpenFds()) <= OpenFds(); });
  const int64_t memory = ResidentBytes();
  const absl::Time start = absl::Now();
  auto readers = Abandon(address, kind, way, count);
  if (way == "closed" || way == "killed") {
    readers.reset();
  } else {
    before += 2;  // those of `readers`: its output, its process
  }
  const absl::Time abandoned = absl::Now();
  const bool back = Eventually([&] { return OpenFds() <= before; });
  std::printf("%5d %-9s %-12s fds %d -> %d, memory %+.1f MiB, opened in %s, gone after %s\n", count,
              kind.c_str(), way.c_str(), before, OpenFds(),
              static_cast<double>(ResidentBytes() - memory) / (1 << 20),
              absl::FormatDuration(abandoned - start).c_str(),
              absl::FormatDuration(absl::Now() - abandoned).c_str());
  return back;
}

}  // namespace mindforge
