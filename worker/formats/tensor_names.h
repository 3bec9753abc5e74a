// Parameters by this project's names, however a file spells or packs them. What has another meaning
// under another name is refused, not guessed.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/safetensors.h"

namespace mindforge {

// A parameter's name without what DistributedDataParallel, FSDP and torch.compile put into it.
std::string PlainName(std::string_view name);

// A table that a model computes by itself: of rotary positions, or an attention mask.
bool IsComputedTable(const TensorView& tensor);

// The tensors under plain names, without computed tables; a stack of experts (transformers 5:
// `mlp.experts.gate_up_proj` [E, 2·inner, hidden], gate above up, and `mlp.experts.down_proj`) as
// the experts' own; a bare base model's (`layers.0…`) with `model.` in front. Views look where the
// given ones do. INVALID_ARGUMENT: a parameter under two names, or the names of MiniMind's first
// releases.
absl::StatusOr<std::vector<TensorView>> PlainTensors(const std::vector<TensorView>& tensors);

// Rows `first` and after, `rows` of them, of matrix `index` of a stack [E, N, M].
TensorView StackedMatrix(const TensorView& stack, int64_t index, int64_t first, int64_t rows,
                         std::string name);

// "a, b, c" with `separator`, for messages; of long lists the first and how many more there are.
std::string ListSome(const std::vector<std::string>& items, std::string_view separator);

}  // namespace mindforge
