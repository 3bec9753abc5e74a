#include "worker/kernels/infer_kernels.h"

#include <cstdlib>
#include <cstring>

#include "worker/kernels/infer_kernels_tables.h"

namespace mindforge {

std::vector<InferIsa> AvailableInferIsas() {
  std::vector<InferIsa> isas = {InferIsa::kScalar};
#ifdef MINDFORGE_X86_KERNELS
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    isas.push_back(InferIsa::kAvx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      isas.push_back(InferIsa::kAvx512);
      if (__builtin_cpu_supports("avx512bf16")) isas.push_back(InferIsa::kAvx512Bf16);
    }
  }
#endif
  return isas;
}

const char* InferIsaName(InferIsa isa) {
  switch (isa) {
    case InferIsa::kScalar:
      return "scalar";
    case InferIsa::kAvx2:
      return "avx2";
    case InferIsa::kAvx512:
      return "avx512";
    case InferIsa::kAvx512Bf16:
      return "avx512_bf16";
  }
  return "?";
}

InferKernels GetInferKernels(InferIsa isa, InferDtype dtype) {
#ifdef MINDFORGE_X86_KERNELS
  switch (isa) {
    case InferIsa::kScalar:
      break;
    case InferIsa::kAvx2:
      return Avx2InferKernels(dtype);
    case InferIsa::kAvx512:
      return Avx512InferKernels(dtype);
    case InferIsa::kAvx512Bf16:
      return Avx512Bf16InferKernels(dtype);
  }
#endif
  return ScalarInferKernels(dtype);
}

uint16_t Bfloat16FromFloat(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float FloatFromBfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

namespace {

// A panel of bfloat16 holds k in pairs, so an odd k takes one more, of zeros.
int64_t EvenK(int64_t k) { return (k + 1) / 2 * 2; }

// Element (column, i): float32 panels are [k][64], bfloat16 ones [k / 2][64][2].
template <typename E>
void Pack(const E* rows, int64_t count, int64_t k, int64_t first_column, E* packed) {
  for (int64_t c = 0; c < count; ++c) {
    const int64_t column = first_column + c;
    E* panel = packed + PanelOffset(column / kPanelColumns, k);
    const int64_t lane = column % kPanelColumns;
    const E* row = rows + c * k;
    for (int64_t i = 0; i < k; ++i) {
      if constexpr (sizeof(E) == 4) {
        panel[i * kPanelColumns + lane] = row[i];
      } else {
        panel[(i / 2 * kPanelColumns + lane) * 2 + i % 2] = row[i];
      }
    }
  }
}

}  // namespace

int64_t PackedElements(int64_t columns, int64_t k) {
  return PanelOffset((columns + kPanelColumns - 1) / kPanelColumns, k);
}

int64_t PanelOffset(int64_t index, int64_t k) { return index * kPanelColumns * EvenK(k); }

void PackColumns(InferDtype dtype, const void* rows, int64_t count, int64_t k, int64_t first_column,
                 void* packed) {
  if (dtype == InferDtype::kFloat32) {
    Pack(static_cast<const float*>(rows), count, k, first_column, static_cast<float*>(packed));
  } else {
    Pack(static_cast<const uint16_t*>(rows), count, k, first_column,
         static_cast<uint16_t*>(packed));
  }
}

}  // namespace mindforge
