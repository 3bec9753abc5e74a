// Weights from one floating-point dtype to another, to nearest, ties to even. It does not know
// what the tensors mean.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/safetensors.h"

namespace mindforge {

float HalfToFloat(uint16_t half);
uint16_t FloatToHalf(float value);
float Bfloat16ToFloat(uint16_t value);
uint16_t FloatToBfloat16(float value);

// F32, F16 or BF16.
bool IsWeightDType(DType dtype);

// INVALID_ARGUMENT: the view is neither F32, F16, BF16 nor F64.
absl::StatusOr<std::vector<float>> ToFloats(const TensorView& view);

// The bytes of `view` as `dtype` (F32, F16 or BF16; or the view's own, copied). INVALID_ARGUMENT:
// no such conversion, or a finite value that F16 cannot hold, with the remedy.
absl::StatusOr<std::string> ConvertTensor(const TensorView& view, DType dtype);

}  // namespace mindforge
