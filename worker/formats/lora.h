// LoRA adapters: y = Wx + B(A x) for square projections, read from a file or a model folder that
// holds them beside its base, merged into the base, and written on their own. Torch-free.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/hf_folder.h"
#include "worker/formats/safetensors.h"

namespace mindforge {

// `model.layers.0.self_attn.q_proj` -> its adapters' and its own parameter names.
std::string LoraAName(std::string_view module);
std::string LoraBName(std::string_view module);
// False when `name` is no adapter's; else sets `module`, a PlainName.
bool ParseLoraName(std::string_view name, std::string* module);

// Applies W += B·A, in float32, to every module that the file names; the folder then finds the
// merged tensors, which it owns. `path` is a .safetensors or .pth file with the keys
// `{module}.lora.A.weight` [r, in] and `{module}.lora.B.weight` [out, r]. NOT_FOUND: no such file.
// INVALID_ARGUMENT: what does not fit the model, all of it listed; the folder is unchanged.
absl::Status MergeLora(const std::string& path, ModelFolder* folder);

// The same with the adapters that the folder itself holds (`lora_rank` in its config.json), which
// are no longer found afterwards. OK when it has none.
absl::Status MergeLora(ModelFolder* folder);

// The folder's own adapters, in name order; empty when it has none.
std::vector<TensorView> LoraTensors(const ModelFolder& folder);

// `lora/{name}_{hidden}.pth`, as the reference names them.
std::string LoraFileName(std::string_view name, int64_t hidden_size);

// Writes adapters as .pth (when `path` ends so) or .safetensors, converted to `dtype`.
// INVALID_ARGUMENT: there are none, or one of them is no adapter.
absl::StatusOr<FileDigest> WriteLora(const std::string& path,
                                     const std::vector<TensorView>& adapters, DType dtype);

}  // namespace mindforge
