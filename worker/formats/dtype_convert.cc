#include "worker/formats/dtype_convert.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

constexpr float kLargestHalf = 65504;

template <typename T>
T ElementAt(const TensorView& view, int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(view.data) + index * sizeof(T), sizeof(T));
  return value;
}

absl::StatusOr<std::string> ToHalves(const TensorView& view, const std::vector<float>& values) {
  std::string bytes(values.size() * sizeof(uint16_t), '\0');
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t half = FloatToHalf(values[i]);
    if (std::isfinite(values[i]) && (half & 0x7FFF) == 0x7C00) {
      return absl::InvalidArgumentError(absl::StrCat("tensor \"", view.name, "\" holds ", values[i],
                                                     ", which float16 (at most ", kLargestHalf,
                                                     ") cannot; choose bfloat16 or float32"));
    }
    std::memcpy(bytes.data() + i * sizeof(half), &half, sizeof(half));
  }
  return bytes;
}

}  // namespace

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1F;
  const uint32_t mantissa = half & 0x3FF;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000 | mantissa << 13);
  if (exponent == 0) {
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t FloatToHalf(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return sign | 0x7E00;   // not a number
  if (magnitude >= 0x477FF000) return sign | 0x7C00;  // rounds beyond the largest
  if (magnitude < 0x38800000) {                       // below the smallest normal
    const float scaled = std::bit_cast<float>(magnitude) * 16777216.0f;  // exact: times 2^24
    return sign | static_cast<uint16_t>(std::nearbyint(scaled));
  }
  const uint32_t odd = (magnitude >> 13) & 1;
  return sign | static_cast<uint16_t>((magnitude - 0x38000000 + 0xFFF + odd) >> 13);
}

float Bfloat16ToFloat(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}

uint16_t FloatToBfloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>(bits >> 16) | 0x40;
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

bool IsWeightDType(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

absl::StatusOr<std::vector<float>> ToFloats(const TensorView& view) {
  const auto count = static_cast<size_t>(view.elements());
  std::vector<float> values(count);
  switch (view.dtype) {
    case DType::kF32:
      if (count > 0) std::memcpy(values.data(), view.data, count * sizeof(float));
      break;
    case DType::kF16:
      for (size_t i = 0; i < count; ++i) values[i] = HalfToFloat(ElementAt<uint16_t>(view, i));
      break;
    case DType::kBF16:
      for (size_t i = 0; i < count; ++i) values[i] = Bfloat16ToFloat(ElementAt<uint16_t>(view, i));
      break;
    case DType::kF64:
      for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(ElementAt<double>(view, i));
      break;
    default:
      return absl::InvalidArgumentError(absl::StrCat("tensor \"", view.name, "\" is ",
                                                     std::string(DTypeName(view.dtype)),
                                                     "; weights are F32, F16 or BF16"));
  }
  return values;
}

absl::StatusOr<std::string> ConvertTensor(const TensorView& view, DType dtype) {
  if (view.dtype == dtype) {
    return std::string(static_cast<const char*>(view.data), static_cast<size_t>(view.bytes));
  }
  ASSIGN_OR_RETURN(const std::vector<float> values, ToFloats(view));
  if (dtype == DType::kF16) return ToHalves(view, values);
  if (dtype == DType::kF32) {
    return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  }
  if (dtype != DType::kBF16) {
    return absl::InvalidArgumentError(
        absl::StrCat("weights cannot be written as ", std::string(DTypeName(dtype))));
  }
  std::string bytes(values.size() * sizeof(uint16_t), '\0');
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t value = FloatToBfloat16(values[i]);
    std::memcpy(bytes.data() + i * sizeof(value), &value, sizeof(value));
  }
  return bytes;
}

}  // namespace mindforge
