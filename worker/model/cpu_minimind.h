// The model on the CPU: LibTorch's matrix products, everything else from worker/kernels.
#pragma once

#include <memory>

#include "worker/model/minimind.h"

namespace mindforge {

// UNIMPLEMENTED names what this backend cannot do.
absl::Status CheckCpuSupport(const ModelConfig& config, const MinimindOptions& options);

// REQUIRES: `config` passed Minimind::Create's checks and CheckCpuSupport.
std::unique_ptr<Minimind> MakeCpuMinimind(const ModelConfig& config,
                                          const MinimindOptions& options);

}  // namespace mindforge
