// The learning rate as a function of the optimizer step. Torch-free and stateless.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace mindforge {

// Learning rate of step `step` (1-based) of `total_steps`: a cosine from just under 1.1 · base down
// to base / 10, no warm-up. REQUIRES: total_steps >= 1.
inline double CosineLearningRate(double base, int64_t step, int64_t total_steps) {
  return base / 10 + 0.5 * base *
                         (1 + std::cos(std::numbers::pi * static_cast<double>(step) /
                                       static_cast<double>(total_steps)));
}

}  // namespace mindforge
