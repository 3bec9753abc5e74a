#include "common/cpu_cores.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "absl/strings/numbers.h"

namespace mindforge {

int UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cores = sched_getaffinity(0, sizeof(set), &set) == 0
                  ? CPU_COUNT(&set)
                  : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  // cgroup v2: "max 100000" or "200000 100000".
  std::ifstream quota("/sys/fs/cgroup/cpu.max");
  std::string limit;
  double period = 0;
  double microseconds = 0;
  if (quota >> limit >> period && absl::SimpleAtod(limit, &microseconds) && period > 0) {
    cores = std::min(cores, static_cast<int>(microseconds / period));
  }
  return std::max(cores, 1);
}

}  // namespace mindforge
