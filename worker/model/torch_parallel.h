// The threads that kernels run on.
#pragma once

#include "worker/kernels/parallel.h"

namespace mindforge {

// Kernels run on LibTorch's own threads, at::get_num_threads() of them.
Parallel TorchParallel();

}  // namespace mindforge
