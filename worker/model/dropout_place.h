// Where dropout acts, numbered so that every backend draws the same masks. Torch-free.
#pragma once

#include <cstdint>

#include "worker/kernels/train_kernels.h"

namespace mindforge {

// Places of a layer; the embedding counts to layer 0.
enum class DropoutPlace : uint32_t { kEmbedding, kProbabilities, kAttentionOutput, kMlpOutput };

// The first of a place's streams; heads and experts count up from it. Layers are
// at most 4096, see ValidateModelConfig: the product fits.
inline uint32_t DropoutStream(int64_t layer, DropoutPlace place) {
  return (static_cast<uint32_t>(layer) * 16 + static_cast<uint32_t>(place)) * kDropoutIndices;
}
// A word of random bits is kept when it reaches this.
inline uint32_t DropoutThreshold(double probability) {
  return static_cast<uint32_t>(probability * 0x1p32);
}

}  // namespace mindforge
