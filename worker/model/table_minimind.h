// The model over one table of kernels (worker/kernels/train_kernels.h), whose columns are the CPU's
// instruction sets and CUDA; matrix products are LibTorch's, but for those on the CPU where the
// table's are faster. A pass on a GPU waits for nothing but a mixture's routing (routing.h).
#pragma once

#include <c10/core/Device.h>

#include <memory>

#include "worker/model/minimind.h"

namespace mindforge {

// The column of `device` has that dtype.
bool HasColumn(c10::Device device, ComputeDtype compute);

// REQUIRES: `config` passed Minimind::Create's checks; HasColumn.
std::unique_ptr<Minimind> MakeTableMinimind(const ModelConfig& config, c10::Device device,
                                            const MinimindOptions& options);

}  // namespace mindforge
