#include "worker/infer/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/kernels/philox.h"

namespace mindforge {
namespace {

constexpr float kImpossible = -std::numeric_limits<float>::infinity();

// The largest logit, NaN when there is one. Lanes keep the comparisons independent of each other.
float LargestLogit(const float* logits, int64_t n) {
  constexpr int kLanes = 8;
  float best[kLanes];
  std::fill_n(best, kLanes, kImpossible);
  bool nan = false;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float x = logits[i + lane];
      best[lane] = x > best[lane] ? x : best[lane];
      nan |= x != x;
    }
  }
  for (; i < n; ++i) {
    best[0] = std::max(best[0], logits[i]);
    nan |= logits[i] != logits[i];
  }
  if (nan) return std::numeric_limits<float>::quiet_NaN();
  return *std::max_element(best, best + kLanes);
}

absl::Status CheckLargest(float largest) {
  if (std::isfinite(largest)) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("the model's logits hold no finite maximum (", largest,
                   "): the weights are damaged or have diverged; serve another checkpoint"));
}

// Less probable, so that a max-heap yields the most probable, lower ids first among equals.
bool LessProbable(const TokenProbability& a, const TokenProbability& b) {
  return a.probability != b.probability ? a.probability < b.probability : a.token > b.token;
}

}  // namespace

double PhiloxUniform(uint64_t seed, uint64_t sequence, uint64_t position) {
  const std::array<uint32_t, 4> bits = Philox(seed, sequence, position);
  return static_cast<double>((uint64_t{bits[1]} << 32 | bits[0]) >> 11) * 0x1.0p-53;
}

Sampler::Sampler(const SamplingParams& params, int64_t vocab_size, std::vector<int32_t> blocked)
    : params_(params),
      vocab_size_(vocab_size),
      blocked_(std::move(blocked)),
      penalized_(params.repetition_penalty != 1.0 || params.presence_penalty != 0.0 ||
                 params.frequency_penalty != 0.0) {
  if (penalized_) {
    is_seen_.resize(vocab_size);
    output_count_.resize(vocab_size);
  }
}

void Sampler::MarkSeen(int32_t token) {
  if (is_seen_[token] != 0) return;
  is_seen_[token] = 1;
  seen_.push_back(token);
}

void Sampler::SeePrompt(absl::Span<const int32_t> tokens) {
  if (!penalized_) return;
  for (int32_t token : tokens) MarkSeen(token);
}

void Sampler::SeeOutput(int32_t token) {
  if (!penalized_) return;
  MarkSeen(token);
  ++output_count_[token];
}

const float* Sampler::Penalized(const float* logits, bool block) {
  block = block && !blocked_.empty();
  if (!block && seen_.empty()) return logits;
  adjusted_.assign(logits, logits + vocab_size_);
  const auto penalty = static_cast<float>(params_.repetition_penalty);
  for (int32_t token : seen_) {
    float& x = adjusted_[token];
    x = x > 0 ? x / penalty : x * penalty;
    const int32_t count = output_count_[token];
    if (count > 0) {
      x -= static_cast<float>(params_.presence_penalty + params_.frequency_penalty * count);
    }
  }
  if (block) {
    for (int32_t token : blocked_) adjusted_[token] = kImpossible;
  }
  return adjusted_.data();
}

void Sampler::KeepTopK(const float* logits, float largest) {
  float bound = kImpossible;
  if (params_.top_k > 0 && params_.top_k < vocab_size_) {
    // A min-heap of the k best so far; few of the later logits get past its root.
    heap_.assign(logits, logits + params_.top_k);
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
    for (int64_t i = params_.top_k; i < vocab_size_; ++i) {
      if (logits[i] <= heap_.front()) continue;
      std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
      heap_.back() = logits[i];
      std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
    }
    bound = heap_.front();
  }
  // Ties with the k-th are all kept, as Hugging Face does.
  const double inverse = 1.0 / params_.temperature;  // finite: the largest logit has probability 1
  kept_.clear();
  for (int64_t i = 0; i < vocab_size_; ++i) {
    if (logits[i] < bound) continue;
    const double x = (static_cast<double>(logits[i]) - largest) * inverse;
    const float p = std::exp(static_cast<float>(x));
    if (p > 0) kept_.push_back({static_cast<int32_t>(i), p});
  }
}

void Sampler::KeepTopP() {
  double total = 0;
  for (const TokenProbability& t : kept_) total += t.probability;
  // Tokens below this bound together weigh less than what top_p leaves out, so they need no
  // sorting.
  const double bound = (1 - params_.top_p) * total / static_cast<double>(kept_.size());
  const auto heavy = std::partition(kept_.begin(), kept_.end(), [bound](const auto& token) {
    return token.probability >= bound;
  });
  if (heavy != kept_.begin()) kept_.erase(heavy, kept_.end());
  std::make_heap(kept_.begin(), kept_.end(), LessProbable);
  double mass = 0;
  auto end = kept_.end();
  while (end != kept_.begin() && (end == kept_.end() || mass < params_.top_p * total)) {
    std::pop_heap(kept_.begin(), end, LessProbable);
    --end;
    mass += end->probability;
  }
  kept_.erase(kept_.begin(), end);
  std::reverse(kept_.begin(), kept_.end());
}

void Sampler::KeepMinP() {
  double most = 0;
  for (const TokenProbability& t : kept_) most = std::max(most, t.probability);
  std::erase_if(kept_, [bound = most * params_.min_p](const TokenProbability& t) {
    return t.probability < bound;
  });
}

absl::StatusOr<absl::Span<const TokenProbability>> Sampler::Distribution(const float* raw,
                                                                         bool block) {
  const float* logits = Penalized(raw, block);
  const float largest = LargestLogit(logits, vocab_size_);
  if (absl::Status status = CheckLargest(largest); !status.ok()) return status;
  if (params_.temperature < kLeastTemperature) {
    const auto token = std::find(logits, logits + vocab_size_, largest) - logits;
    kept_.assign(1, {static_cast<int32_t>(token), 1.0});
    return absl::MakeConstSpan(kept_);
  }
  KeepTopK(logits, largest);
  if (params_.top_p < 1) KeepTopP();
  if (params_.min_p > 0) KeepMinP();
  double total = 0;
  for (const TokenProbability& t : kept_) total += t.probability;
  for (TokenProbability& t : kept_) t.probability /= total;
  return absl::MakeConstSpan(kept_);
}

absl::StatusOr<int32_t> Sampler::Choose(const float* logits, uint64_t position, bool block) {
  absl::StatusOr<absl::Span<const TokenProbability>> distribution = Distribution(logits, block);
  if (!distribution.ok()) return distribution.status();
  if (distribution->size() == 1) return distribution->front().token;
  const double u = PhiloxUniform(params_.seed, params_.sequence, position);
  double mass = 0;
  for (const TokenProbability& t : *distribution) {
    mass += t.probability;
    if (u < mass) return t.token;
  }
  return distribution->back().token;  // Rounding left the sum just below u.
}

RawLogprobs::RawLogprobs(absl::Span<const float> logits) : logits_(logits) {
  const float largest = LargestLogit(logits.data(), static_cast<int64_t>(logits.size()));
  double sum = 0;
  for (float x : logits) sum += std::exp(x - largest);
  log_sum_ = std::log(sum) + largest;
}

TokenLogprob RawLogprobs::Of(int32_t token) const {
  return {token, static_cast<float>(logits_[token] - log_sum_)};
}

std::vector<TokenLogprob> RawLogprobs::Top(int64_t count) const {
  std::vector<int32_t> ids(logits_.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto end = ids.begin() + std::min<int64_t>(count, static_cast<int64_t>(ids.size()));
  std::partial_sort(ids.begin(), end, ids.end(), [&](int32_t a, int32_t b) {
    return logits_[a] != logits_[b] ? logits_[a] > logits_[b] : a < b;
  });
  std::vector<TokenLogprob> top;
  top.reserve(end - ids.begin());
  for (auto id = ids.begin(); id != end; ++id) top.push_back(Of(*id));
  return top;
}

}  // namespace mindforge
