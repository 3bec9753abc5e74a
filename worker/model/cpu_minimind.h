// The model on the CPU: LibTorch's matrix products, everything else from worker/kernels.
#pragma once

#include <memory>

#include "worker/model/minimind.h"

namespace mindforge {

// REQUIRES: `config` passed Minimind::Create's checks; options.compute is not float16.
std::unique_ptr<Minimind> MakeCpuMinimind(const ModelConfig& config,
                                          const MinimindOptions& options);

}  // namespace mindforge
