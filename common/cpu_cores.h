// How many cores this process may use.
#pragma once

namespace mindforge {

// By affinity and by the cgroup's quota, so that a container's share is respected; at least 1.
int UsableCores();

}  // namespace mindforge
