// The model composed of LibTorch's operators, on any device: for a dtype that the table of kernels
// has no column for, and in tests the oracle of the table's model.
#pragma once

#include <memory>

#include "worker/model/minimind.h"

namespace mindforge {

// REQUIRES: `config` passed Minimind::Create's checks; `device` exists.
std::unique_ptr<Minimind> MakeAtenMinimind(const ModelConfig& config, c10::Device device,
                                           const MinimindOptions& options);

}  // namespace mindforge
