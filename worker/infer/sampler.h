// Chooses a token from logits in Hugging Face's order: penalties, temperature, top-k, top-p, min-p,
// softmax, draw. Stateless but for the counts of a sequence's tokens; the draw is a pure function
// of (seed, sequence, position).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/infer/engine.h"
#include "worker/infer/sampling.h"

namespace mindforge {

// A number in [0, 1) with 53 random bits of Philox 4x32-10 under key `seed`, counter (sequence,
// position).
double PhiloxUniform(uint64_t seed, uint64_t sequence, uint64_t position);

struct TokenProbability {
  int32_t token = 0;
  double probability = 0;
};

// One sequence's side of sampling: its parameters and what it has seen. Not thread-safe.
class Sampler {
 public:
  // `blocked` ids cannot be drawn while the caller says so (min_new_tokens).
  Sampler(const SamplingParams& params, int64_t vocab_size, std::vector<int32_t> blocked);

  void SeePrompt(absl::Span<const int32_t> tokens);
  void SeeOutput(int32_t token);

  // The next token from logits [vocab_size]; `position` is its absolute position in the sequence.
  // INTERNAL: the logits hold a NaN or no finite value.
  absl::StatusOr<int32_t> Choose(const float* logits, uint64_t position, bool block);

  // The distribution that Choose draws from: every token with a probability above 0, in the order
  // of the draw. One token of probability 1 when greedy. Valid until the next call.
  absl::StatusOr<absl::Span<const TokenProbability>> Distribution(const float* logits, bool block);

 private:
  // `logits`, or a copy with penalties and blocked ids applied.
  const float* Penalized(const float* logits, bool block);
  void MarkSeen(int32_t token);
  // Fills kept_ with the ids that top-k leaves; probabilities are not normalised yet.
  void KeepTopK(const float* logits, float largest);
  void KeepTopP();
  void KeepMinP();

  const SamplingParams params_;
  const int64_t vocab_size_;
  const std::vector<int32_t> blocked_;
  const bool penalized_;
  // When penalized: the distinct ids of prompt and output, and counts by id.
  std::vector<int32_t> seen_;
  std::vector<uint8_t> is_seen_;
  std::vector<int32_t> output_count_;
  // Scratch of one call.
  std::vector<float> adjusted_;
  std::vector<float> heap_;
  std::vector<TokenProbability> kept_;
};

// Log-probabilities of raw logits, which must outlive it.
class RawLogprobs {
 public:
  explicit RawLogprobs(absl::Span<const float> logits);
  TokenLogprob Of(int32_t token) const;
  // The `count` most probable ids, the lower id first among equals.
  std::vector<TokenLogprob> Top(int64_t count) const;

 private:
  const absl::Span<const float> logits_;
  double log_sum_;
};

}  // namespace mindforge
