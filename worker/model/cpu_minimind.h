// The model on the CPU: LibTorch's matrix products, everything else from worker/kernels.
#pragma once

#include <memory>

#include "worker/kernels/parallel.h"
#include "worker/model/minimind.h"

namespace mindforge {

// REQUIRES: `config` passed Minimind::Create's checks.
std::unique_ptr<Minimind> MakeCpuMinimind(const ModelConfig& config,
                                          const MinimindOptions& options);

// Kernels run on LibTorch's own threads, at::get_num_threads() of them.
Parallel TorchParallel();

}  // namespace mindforge
