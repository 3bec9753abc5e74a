// Decoding kernels for AVX-512 with vdpbf16ps, which multiplies two pairs of bfloat16 and adds both
// to a float32 lane. Only the bfloat16 table differs from plain AVX-512.
#include "worker/kernels/infer_kernels_avx512_vector.h"
#include "worker/kernels/infer_kernels_tables.h"

namespace mindforge {
namespace {

struct Pairs {
  __m512i bits;

  static Pairs Load(const uint16_t* p) { return {_mm512_loadu_si512(p)}; }
  static Pairs Broadcast(const uint16_t* p) {
    int pair;
    __builtin_memcpy(&pair, p, 4);
    return {_mm512_set1_epi32(pair)};
  }
  static V Dot(V acc, Pairs a, Pairs b) {
    return {_mm512_dpbf16_ps(acc.v, reinterpret_cast<__m512bh>(a.bits),
                             reinterpret_cast<__m512bh>(b.bits))};
  }
};

}  // namespace
}  // namespace mindforge

#include "worker/kernels/infer_kernels_table_impl.h"

namespace mindforge {

InferKernels Avx512Bf16InferKernels(InferDtype dtype) {
  if (dtype == InferDtype::kFloat32) return Avx512InferKernels(dtype);
  InferKernels kernels;
  kernels.numerics = kNumericsBf16Dot;
  FillTable<Bfloat16>(kernels);
  return kernels;
}

}  // namespace mindforge
