// The model on the CPU: worker/kernels, but for the matrix products where LibTorch's are faster
// (cpu_pass.h).
#pragma once

#include <memory>

#include "worker/model/minimind.h"

namespace mindforge {

// REQUIRES: `config` passed Minimind::Create's checks; options.compute is not float16.
std::unique_ptr<Minimind> MakeCpuMinimind(const ModelConfig& config,
                                          const MinimindOptions& options);

}  // namespace mindforge
