// The names that PyTorch's pickles use, and the dtypes they stand for.
#pragma once

#include <optional>
#include <string_view>

#include "absl/types/span.h"
#include "worker/formats/safetensors.h"

namespace mindforge {

inline constexpr std::string_view kUntypedStorage = "torch.storage.UntypedStorage";
inline constexpr std::string_view kRebuildTensor = "torch._utils._rebuild_tensor";
inline constexpr std::string_view kRebuildTensorV2 = "torch._utils._rebuild_tensor_v2";
inline constexpr std::string_view kRebuildTensorV3 = "torch._utils._rebuild_tensor_v3";
inline constexpr std::string_view kRebuildParameter = "torch._utils._rebuild_parameter";

// Every global that may stand in a .pth: storages, dtypes, what tensors are rebuilt by, containers.
absl::Span<const std::string_view> KnownPthGlobals();

bool IsTensorCall(std::string_view function);

// "torch.HalfStorage" -> F16. Unset for another name.
std::optional<DType> DTypeOfStorage(std::string_view global);
// "torch.float16" -> F16.
std::optional<DType> DTypeOfName(std::string_view global);
// "HalfStorage"; empty where PyTorch has no storage of that dtype.
std::string_view StorageName(DType dtype);

}  // namespace mindforge
