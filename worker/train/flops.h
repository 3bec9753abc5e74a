// Model FLOP/s utilisation: how much of a device's ceiling training uses. Torch-free, pure.
#pragma once

#include <cstdint>
#include <string_view>

#include "worker/formats/model_config.h"

namespace mindforge {

// Floating-point operations of forward and backward for one token of a sequence of `length`: six a
// weight that is multiplied, and twelve · layers · heads · head_dim · length for attention.
double FlopsPerToken(const ModelConfig& config, int64_t length);

// A device's dense matrix ceiling in FLOP/s, without sparsity and TF32; 0 where it is not known.
double PeakFlops(std::string_view device_model, bool half_precision);

}  // namespace mindforge
