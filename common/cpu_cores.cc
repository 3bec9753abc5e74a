#include "common/cpu_cores.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace mindforge {
namespace {

// Levels of nested cgroups that are looked at; no system nests deeper.
constexpr int kMaxLevels = 64;

bool Holds(const std::vector<std::string>& list, const char* item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

std::vector<std::string> Split(const std::string& text, char by) {
  return absl::StrSplit(text, by, absl::SkipEmpty());
}

// This process's cgroup in the second version (`controller` empty) or in a controller's hierarchy.
std::optional<std::string> CgroupPath(const std::string& root, const std::string& controller) {
  std::ifstream file(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {  // "4:cpu,cpuacct:/a/b", "0::/a/b"
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (controller.empty() ? parts[1].empty() : Holds(Split(parts[1], ','), controller.c_str())) {
      return parts[2];
    }
  }
  return std::nullopt;
}

// Where `path` of a hierarchy is seen: the mount point, and what lies below it, "/a/b" or "".
struct Seen {
  std::string mount;
  std::string below;
};

std::optional<Seen> FindMount(const std::string& root, const std::string& type,
                              const char* controller, const std::string& path) {
  std::ifstream file(root + "/proc/self/mountinfo");
  std::string line;
  while (std::getline(file, line)) {
    // "30 24 0:26 /of-the-hierarchy /mount-point options … - type source super-options"
    const std::vector<std::string> halves = absl::StrSplit(line, absl::MaxSplits(" - ", 1));
    if (halves.size() != 2) continue;
    const std::vector<std::string> left = Split(halves[0], ' ');
    const std::vector<std::string> right = Split(halves[1], ' ');
    if (left.size() < 5 || right.size() < 3 || right[0] != type) continue;
    if (controller != nullptr && !Holds(Split(right[2], ','), controller)) continue;
    absl::string_view below = path;
    // A container may see a part of the hierarchy only, named as on the host.
    if (left[3] != "/") absl::ConsumePrefix(&below, left[3]);
    absl::ConsumeSuffix(&below, "/");
    return Seen{left[4], std::string(below)};
  }
  return std::nullopt;
}

std::string Word(std::ifstream& file) {
  std::string word;
  file >> word;
  return word;
}

// "200000" over "100000"; none for "max", -1 and what is not there.
std::optional<double> Cores(const std::string& quota, const std::string& period) {
  double microseconds = 0, of = 0;
  if (!absl::SimpleAtod(quota, &microseconds) || !absl::SimpleAtod(period, &of)) {
    return std::nullopt;
  }
  if (microseconds <= 0 || of <= 0) return std::nullopt;
  return microseconds / of;
}

std::optional<double> CoresOf(const std::string& folder, bool second_version) {
  if (second_version) {
    std::ifstream file(folder + "/cpu.max");
    const std::string quota = Word(file);
    return Cores(quota, Word(file));
  }
  std::ifstream quota(folder + "/cpu.cfs_quota_us");
  std::ifstream period(folder + "/cpu.cfs_period_us");
  return Cores(Word(quota), Word(period));
}

// Of the cgroup and every one above it.
std::optional<double> Smallest(const std::string& root, const Seen& seen, bool second_version) {
  std::optional<double> smallest;
  std::string below = seen.below;
  for (int level = 0; level < kMaxLevels; ++level) {
    const auto cores = CoresOf(absl::StrCat(root, seen.mount, below), second_version);
    if (cores && (!smallest || *cores < *smallest)) smallest = cores;
    if (below.empty()) break;
    below.resize(below.rfind('/') == std::string::npos ? 0 : below.rfind('/'));
  }
  return smallest;
}

}  // namespace

std::optional<double> CgroupCores(const std::string& root) {
  std::optional<double> smallest;
  for (const bool second_version : {true, false}) {
    const auto path = CgroupPath(root, second_version ? "" : "cpu");
    if (!path) continue;
    const auto seen = second_version ? FindMount(root, "cgroup2", nullptr, *path)
                                     : FindMount(root, "cgroup", "cpu", *path);
    if (!seen) continue;
    const auto cores = Smallest(root, *seen, second_version);
    if (cores && (!smallest || *cores < *smallest)) smallest = cores;
  }
  return smallest;
}

int UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cores = sched_getaffinity(0, sizeof(set), &set) == 0
                  ? CPU_COUNT(&set)
                  : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  if (const auto quota = CgroupCores()) cores = std::min(cores, static_cast<int>(*quota));
  return std::max(cores, 1);
}

}  // namespace mindforge
