// How the next token is chosen: the request's side of it, plain values. sampler.h does the work.
#pragma once

#include <cstdint>

namespace mindforge {

// Below it a temperature is 0: the largest logit takes everything, and dividing by much less gives
// infinities.
inline constexpr double kLeastTemperature = 1e-6;

// The random draw of a token is a pure function of (seed, sequence, position), so a request's
// tokens do not depend on its neighbours in the batch.
struct SamplingParams {
  double temperature = 1.0;  // below kLeastTemperature: greedy, the lowest id on ties
  int64_t top_k = 0;         // 0: off
  double top_p = 1.0;        // 1: off; the smallest set with cumulative probability >= top_p
  double min_p = 0.0;        // 0: off; drops tokens below min_p times the largest probability
  uint64_t seed = 0;
  uint64_t sequence = 0;            // index of this completion among the n of one request
  double repetition_penalty = 1.0;  // over prompt and output, Hugging Face's rule; 1: off
  double presence_penalty = 0.0;    // over output: subtracted once from each id seen
  double frequency_penalty = 0.0;   // over output: subtracted for each time an id was seen
};

}  // namespace mindforge
