// How many cores this process may use.
#pragma once

#include <optional>
#include <string>

namespace mindforge {

// By affinity and by the cgroups' quotas, so that a container's share is respected; at least 1.
int UsableCores();

// The smallest CPU quota, in cores, of this process's cgroup and all above it, in the first and the
// second version of cgroups; none where there is no limit. `root` stands before each path that is
// read: tests give a tree of their own.
std::optional<double> CgroupCores(const std::string& root = "");

}  // namespace mindforge
