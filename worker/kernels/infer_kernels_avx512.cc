// Decoding kernels for AVX-512 without a bfloat16 dot product.
#include "worker/kernels/infer_kernels_avx512_vector.h"
#include "worker/kernels/infer_kernels_tables.h"

namespace mindforge {
namespace {

struct Pairs {
  __m512 even;
  __m512 odd;

  static Pairs Split(__m512i bits) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)),
            _mm512_castsi512_ps(
                _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
  }
  static Pairs Load(const uint16_t* p) { return Split(_mm512_loadu_si512(p)); }
  static Pairs Broadcast(const uint16_t* p) {
    int pair;
    __builtin_memcpy(&pair, p, 4);
    return Split(_mm512_set1_epi32(pair));
  }
  static V Dot(V acc, Pairs a, Pairs b) {
    return {_mm512_fmadd_ps(a.odd, b.odd, _mm512_fmadd_ps(a.even, b.even, acc.v))};
  }
};

}  // namespace
}  // namespace mindforge

#include "worker/kernels/infer_kernels_table_impl.h"

namespace mindforge {

InferKernels Avx512InferKernels(InferDtype dtype) { return MakeTable(dtype, kNumericsBf16Fma); }

}  // namespace mindforge
