// The model composed of LibTorch's operators, for CUDA. It also runs on the CPU, where the tests
// check it against the other backend.
#pragma once

#include <memory>

#include "worker/model/minimind.h"

namespace mindforge {

// REQUIRES: `config` passed Minimind::Create's checks; `device` exists.
std::unique_ptr<Minimind> MakeAtenMinimind(const ModelConfig& config, c10::Device device,
                                           const MinimindOptions& options);

}  // namespace mindforge
