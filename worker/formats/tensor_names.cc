#include "worker/formats/tensor_names.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

constexpr size_t kMaxListed = 20;

// At any place of a name.
constexpr std::array<std::string_view, 4> kWrappers = {
    "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module."};

constexpr std::array<std::string_view, 13> kTables = {
    "inv_freq",    "original_inv_freq", "freqs_cos",  "freqs_sin", "freqs_cis",
    "pos_cis",     "cos_cached",        "sin_cached", "mask",      "attn_mask",
    "causal_mask", "attention_mask",    "masked_bias"};

constexpr std::string_view kGateUp = ".mlp.experts.gate_up_proj";
constexpr std::string_view kDown = ".mlp.experts.down_proj";

bool RemoveFirst(std::string_view what, bool at_begin, std::string* name) {
  const size_t place = name->find(what);
  // A component's beginning: "my_module." is no wrapper.
  if (place == std::string::npos || (at_begin && place != 0) ||
      (place > 0 && (*name)[place - 1] != '.')) {
    return false;
  }
  name->erase(place, what.size());
  return true;
}

// False when `tensor` is no stack of experts.
bool AddExperts(const TensorView& tensor, std::vector<TensorView>* out) {
  std::string_view name = tensor.name;
  if (name.ends_with(".weight")) name.remove_suffix(std::string_view(".weight").size());
  const bool gate_up = name.ends_with(kGateUp);
  if ((!gate_up && !name.ends_with(kDown)) || tensor.shape.size() != 3 ||
      (gate_up && tensor.shape[1] % 2 != 0)) {
    return false;
  }
  const std::string experts(name.substr(0, name.rfind('.') + 1));
  const int64_t rows = tensor.shape[1];
  for (int64_t e = 0; e < tensor.shape[0]; ++e) {
    const std::string prefix = absl::StrCat(experts, e, ".");
    if (gate_up) {
      out->push_back(StackedMatrix(tensor, e, 0, rows / 2, prefix + "gate_proj.weight"));
      out->push_back(StackedMatrix(tensor, e, rows / 2, rows / 2, prefix + "up_proj.weight"));
    } else {
      out->push_back(StackedMatrix(tensor, e, 0, rows, prefix + "down_proj.weight"));
    }
  }
  return true;
}

bool Has(const std::vector<TensorView>& tensors, std::string_view name) {
  return std::any_of(tensors.begin(), tensors.end(),
                     [name](const TensorView& tensor) { return tensor.name == name; });
}

// MiniMind of 2024 and early 2025 turns neighbouring pairs of q and k: under today's names its
// weights would give wrong answers.
absl::Status CheckRelease(const std::vector<TensorView>& tensors) {
  if (!Has(tensors, "tok_embeddings.weight")) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "these are the names of MiniMind's first releases (tok_embeddings, attention.wq, "
      "feed_forward.w1), whose rotary positions turn other pairs than today's; they are not read. "
      "Convert the weights with that release's own scripts to a Hugging Face folder, or train on "
      "from today's weights");
}

// What AutoModel saves: the model without its head, and without the name it has in it.
void AddModelPrefix(std::vector<TensorView>* tensors) {
  if (!Has(*tensors, "embed_tokens.weight")) return;
  for (TensorView& tensor : *tensors) {
    if (!tensor.name.starts_with("lm_head.")) tensor.name = "model." + tensor.name;
  }
}

}  // namespace

std::string PlainName(std::string_view name) {
  std::string plain(name);
  for (bool found = true; found;) {
    found = RemoveFirst("module.", /*at_begin=*/true, &plain);
    for (const std::string_view wrapper : kWrappers) {
      found |= RemoveFirst(wrapper, /*at_begin=*/false, &plain);
    }
  }
  return plain;
}

bool IsComputedTable(const TensorView& tensor) {
  const std::string_view name = tensor.name;
  const std::string_view last = name.substr(name.rfind('.') + 1);  // npos + 1: all of it
  if (std::find(kTables.begin(), kTables.end(), last) != kTables.end()) return true;
  return name.ends_with("attn.bias") && tensor.shape.size() == 4;  // a causal mask of that name
}

absl::StatusOr<std::vector<TensorView>> PlainTensors(const std::vector<TensorView>& tensors) {
  std::vector<TensorView> plain;
  for (const TensorView& tensor : tensors) {
    TensorView view = tensor;
    view.name = PlainName(view.name);
    if (IsComputedTable(view) || AddExperts(view, &plain)) continue;
    plain.push_back(std::move(view));
  }
  RETURN_IF_ERROR(CheckRelease(plain));
  AddModelPrefix(&plain);
  std::unordered_set<std::string_view> names;
  for (const TensorView& tensor : plain) {
    if (names.insert(tensor.name).second) continue;
    return absl::InvalidArgumentError(absl::StrCat("tensor \"", tensor.name, "\" is there twice"));
  }
  return plain;
}

TensorView StackedMatrix(const TensorView& stack, int64_t index, int64_t first, int64_t rows,
                         std::string name) {
  const int64_t row_bytes = stack.shape[2] * DTypeBytes(stack.dtype);
  TensorView view;
  view.name = std::move(name);
  view.dtype = stack.dtype;
  view.shape = {rows, stack.shape[2]};
  view.bytes = rows * row_bytes;
  view.data =
      static_cast<const std::byte*>(stack.data) + (index * stack.shape[1] + first) * row_bytes;
  return view;
}

std::string ListSome(const std::vector<std::string>& items, std::string_view separator) {
  const std::string between(separator);
  const auto shown = static_cast<ptrdiff_t>(std::min(items.size(), kMaxListed));
  std::string text = absl::StrJoin(items.begin(), items.begin() + shown, between);
  if (items.size() > kMaxListed) {
    absl::StrAppend(&text, between, "and ", items.size() - kMaxListed, " more");
  }
  return text;
}

}  // namespace mindforge
