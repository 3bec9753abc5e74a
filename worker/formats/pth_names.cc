#include "worker/formats/pth_names.h"

#include <array>
#include <vector>

namespace mindforge {
namespace {

constexpr std::string_view kTorch = "torch.";

struct Names {
  DType dtype;
  std::string_view storage;  // with "torch." in front; empty: none
  std::string_view name;
};

constexpr std::array kNames = {
    Names{DType::kF32, "torch.FloatStorage", "torch.float32"},
    Names{DType::kF16, "torch.HalfStorage", "torch.float16"},
    Names{DType::kBF16, "torch.BFloat16Storage", "torch.bfloat16"},
    Names{DType::kF64, "torch.DoubleStorage", "torch.float64"},
    Names{DType::kI64, "torch.LongStorage", "torch.int64"},
    Names{DType::kI32, "torch.IntStorage", "torch.int32"},
    Names{DType::kI16, "torch.ShortStorage", "torch.int16"},
    Names{DType::kI8, "torch.CharStorage", "torch.int8"},
    Names{DType::kU8, "torch.ByteStorage", "torch.uint8"},
    Names{DType::kBool, "torch.BoolStorage", "torch.bool"},
    Names{DType::kC64, "torch.ComplexFloatStorage", "torch.complex64"},
    Names{DType::kC128, "torch.ComplexDoubleStorage", "torch.complex128"},
    Names{DType::kU16, "", "torch.uint16"},
    Names{DType::kU32, "", "torch.uint32"},
    Names{DType::kU64, "", "torch.uint64"},
    Names{DType::kF8E4M3, "", "torch.float8_e4m3fn"},
    Names{DType::kF8E5M2, "", "torch.float8_e5m2"},
};

std::vector<std::string_view> MakeGlobals() {
  std::vector<std::string_view> globals = {
      "collections.OrderedDict", "torch.Size",     "torch.device",
      kUntypedStorage,           kRebuildTensor,   kRebuildTensorV2,
      kRebuildTensorV3,          kRebuildParameter};
  for (const Names& names : kNames) {
    globals.push_back(names.name);
    if (!names.storage.empty()) globals.push_back(names.storage);
  }
  return globals;
}

}  // namespace

absl::Span<const std::string_view> KnownPthGlobals() {
  static const auto* const globals = new std::vector<std::string_view>(MakeGlobals());
  return *globals;
}

bool IsTensorCall(std::string_view function) {
  return function == kRebuildTensor || function == kRebuildTensorV2 ||
         function == kRebuildTensorV3 || function == kRebuildParameter;
}

std::optional<DType> DTypeOfStorage(std::string_view global) {
  for (const Names& names : kNames) {
    if (!names.storage.empty() && names.storage == global) return names.dtype;
  }
  return std::nullopt;
}

std::optional<DType> DTypeOfName(std::string_view global) {
  for (const Names& names : kNames) {
    if (names.name == global) return names.dtype;
  }
  return std::nullopt;
}

std::string_view StorageName(DType dtype) {
  for (const Names& names : kNames) {
    if (names.dtype == dtype && !names.storage.empty()) return names.storage.substr(kTorch.size());
  }
  return "";
}

}  // namespace mindforge
