// The learning rate as a function of the optimizer step. Torch-free and stateless.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace mindforge {

// How the rate falls; training.schedule. Neither has a warm-up.
enum class Schedule {
  kCosine,        // from just under 1.1 · base to base / 10: MiniMind2's
  kCosineFromLr,  // from base to base / 10: MiniMind-3's
};

// kCosine's rate at step `step` (1-based) of `total_steps`. REQUIRES: total_steps >= 1.
inline double CosineLearningRate(double base, int64_t step, int64_t total_steps) {
  return base / 10 + 0.5 * base *
                         (1 + std::cos(std::numbers::pi * static_cast<double>(step) /
                                       static_cast<double>(total_steps)));
}

// The rate at step `step` (1-based) of `total_steps`. REQUIRES: total_steps >= 1.
inline double LearningRate(Schedule schedule, double base, int64_t step, int64_t total_steps) {
  if (schedule == Schedule::kCosine) return CosineLearningRate(base, step, total_steps);
  return base * (0.1 + 0.45 * (1 + std::cos(std::numbers::pi * static_cast<double>(step) /
                                            static_cast<double>(total_steps))));
}

}  // namespace mindforge
