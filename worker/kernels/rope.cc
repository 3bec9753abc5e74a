#include "worker/kernels/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>

namespace mindforge {
namespace {

constexpr double kTwoPi = 2 * std::numbers::pi;

// `rope_type: minimind`: frequencies below the first that turns less than once within the original
// length shrink by a blend that grows with the index, the rest by the whole factor.
void ScaleMinimind(const ModelConfig& config, const RopeScaling& scaling,
                   std::vector<double>& frequencies) {
  if (config.max_position_embeddings <= scaling.original_max_position_embeddings) return;
  const auto half = static_cast<int64_t>(frequencies.size());
  const auto original = static_cast<double>(scaling.original_max_position_embeddings);
  const double s = scaling.factor;
  int64_t cut = 0;
  while (cut < half && kTwoPi / frequencies[cut] <= original) ++cut;
  for (int64_t i = 0; i < half; ++i) {
    const double blend =
        static_cast<double>(i) / static_cast<double>(std::max<int64_t>(half - 1, 1));
    const double beta = scaling.beta_slow + (scaling.beta_fast - scaling.beta_slow) * blend;
    frequencies[i] *= i < cut ? (beta * s - beta + 1) / (beta * s) : 1 / s;
  }
}

// `rope_type: yarn`: a ramp between the dimensions that turn beta_fast and beta_slow times within
// the original length.
void ScaleYarn(const ModelConfig& config, const RopeScaling& scaling,
               std::vector<double>& frequencies) {
  const auto half = static_cast<double>(frequencies.size());
  const auto original = static_cast<double>(scaling.original_max_position_embeddings);
  auto dimension = [&](double beta) {
    return 2 * half * std::log(original / (kTwoPi * beta)) / (2 * std::log(config.rope_theta));
  };
  const double low = std::max(std::floor(dimension(scaling.beta_fast)), 0.0);
  const double high = std::min(std::ceil(dimension(scaling.beta_slow)), half - 1);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp =
        std::clamp((static_cast<double>(i) - low) / std::max(high - low, 0.001), 0.0, 1.0);
    frequencies[i] *= 1 - ramp + ramp / scaling.factor;
  }
}

}  // namespace

std::vector<float> RopeInverseFrequencies(const ModelConfig& config) {
  const int64_t half = config.HeadDim() / 2;
  std::vector<double> frequencies(half);
  for (int64_t i = 0; i < half; ++i) {
    frequencies[i] =
        std::pow(config.rope_theta, -static_cast<double>(i) / static_cast<double>(half));
  }
  const std::optional<RopeScaling> scaling = config.EffectiveRopeScaling();
  if (scaling.has_value()) {
    switch (scaling->type) {
      case RopeScaling::Type::kMinimind:
        ScaleMinimind(config, *scaling, frequencies);
        break;
      case RopeScaling::Type::kYarn:
        ScaleYarn(config, *scaling, frequencies);
        break;
    }
  }
  return {frequencies.begin(), frequencies.end()};
}

RopeTables MakeRopeTables(const ModelConfig& config, int64_t positions) {
  const std::vector<float> frequencies = RopeInverseFrequencies(config);
  const std::optional<RopeScaling> scaling = config.EffectiveRopeScaling();
  const bool yarn = scaling.has_value() && scaling->type == RopeScaling::Type::kYarn;
  const double magnitude = yarn ? scaling->attention_factor : 1.0;
  RopeTables tables;
  tables.positions = positions;
  tables.half = static_cast<int64_t>(frequencies.size());
  tables.cos.resize(positions * tables.half);
  tables.sin.resize(positions * tables.half);
  for (int64_t position = 0; position < positions; ++position) {
    for (int64_t i = 0; i < tables.half; ++i) {
      const float angle = static_cast<float>(position) * frequencies[i];
      const int64_t at = position * tables.half + i;
      tables.cos[at] = static_cast<float>(std::cos(static_cast<double>(angle)) * magnitude);
      tables.sin[at] = static_cast<float>(std::sin(static_cast<double>(angle)) * magnitude);
    }
  }
  return tables;
}

}  // namespace mindforge
