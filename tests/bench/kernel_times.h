// Where a step on a GPU spends its time, by kernel.
#pragma once

#include <functional>

namespace mindforge::bench {

// Runs `step`, which must wait for the device itself, and prints on stderr each kernel's calls and
// milliseconds in it, the longest first, and from the first's start to the last's end. Says so
// where the build or the driver cannot tell.
void PrintKernelTimes(const std::function<void()>& step);

}  // namespace mindforge::bench
