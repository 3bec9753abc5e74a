#include "worker/serve/weights_check.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/error_details.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

constexpr int64_t kCanaryTokens = 16;

struct BadValues {
  int64_t count = 0;
  int64_t first = -1;
};

// A float is not finite where all bits of its exponent are set. By blocks, so that a good tensor is
// read at the speed of memory.
template <typename Bits>
BadValues FindBad(const TensorView& view, Bits exponent) {
  constexpr int64_t kBlock = 4096;
  const auto* const bytes = static_cast<const std::byte*>(view.data);
  BadValues bad;
  Bits block[kBlock];
  for (int64_t start = 0; start < view.elements(); start += kBlock) {
    const int64_t count = std::min(kBlock, view.elements() - start);
    std::memcpy(block, bytes + start * static_cast<int64_t>(sizeof(Bits)), count * sizeof(Bits));
    int64_t here = 0;
    for (int64_t i = 0; i < count; ++i) here += (block[i] & exponent) == exponent ? 1 : 0;
    if (here > 0 && bad.first < 0) {
      bad.first = start + (std::find_if(block, block + count,
                                        [&](Bits bits) { return (bits & exponent) == exponent; }) -
                           block);
    }
    bad.count += here;
  }
  return bad;
}

BadValues FindBad(const TensorView& view) {
  switch (view.dtype) {
    case DType::kF32:
      return FindBad<uint32_t>(view, 0x7f800000u);
    case DType::kBF16:
      return FindBad<uint16_t>(view, 0x7f80u);
    case DType::kF16:
      return FindBad<uint16_t>(view, 0x7c00u);
    default:
      return {};
  }
}

}  // namespace

absl::Status CheckFiniteWeights(const ModelFolder& folder) {
  // By name, so that the same folder always gives the same words.
  const std::map<std::string, const TensorView*> tensors(folder.tensors.begin(),
                                                         folder.tensors.end());
  std::set<const void*> seen;  // a tied head is the embedding again
  for (const auto& [name, view] : tensors) {
    if (!seen.insert(view->data).second) continue;
    const BadValues bad = FindBad(*view);
    if (bad.count == 0) continue;
    return Error(absl::StatusCode::kDataLoss, "WEIGHTS_NOT_FINITE",
                 absl::StrCat(folder.path, ": ", bad.count, " of ", view->elements(), " values of ",
                              name, " are NaN or infinite, the first at index ", bad.first,
                              "; serve an earlier checkpoint, and see why the training diverged "
                              "(`mindforge job metrics`)"));
  }
  return absl::OkStatus();
}

absl::Status CheckCanary(ModelRunner& runner, int32_t bos_id) {
  const int64_t vocab = runner.vocab_size();
  const int64_t count =
      std::min({kCanaryTokens, runner.max_context() - 1, runner.max_batch_tokens()});
  if (count < 1) return absl::OkStatus();  // a context that has no place for a prompt
  std::vector<int32_t> prompt;
  for (int64_t i = 0; i < count; ++i) {
    prompt.push_back(static_cast<int32_t>(i * vocab / count));
  }
  // A configuration may name a bos that the model does not have.
  if (bos_id >= 0 && bos_id < vocab) prompt[0] = bos_id;
  StepBatch batch;
  batch.rows.push_back({.slot = 0, .start_position = 0, .tokens = prompt, .logits = count});
  std::vector<float> logits(static_cast<size_t>(count * vocab));
  RETURN_IF_ERROR(runner.Forward(batch, logits.data())) << "the canary prompt";
  const auto bad =
      std::find_if(logits.begin(), logits.end(), [](float logit) { return !std::isfinite(logit); });
  if (bad == logits.end()) return absl::OkStatus();
  return Error(absl::StatusCode::kDataLoss, "LOGITS_NOT_FINITE",
               absl::StrCat("the weights are finite, but a canary prompt of ", count,
                            " tokens gave the logit ", *bad, " at position ",
                            (bad - logits.begin()) / vocab, " under ", runner.numerics_id(),
                            "; the arithmetic overflows: serve an earlier checkpoint, or in "
                            "float32"));
}

}  // namespace mindforge
