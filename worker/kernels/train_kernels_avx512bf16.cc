// AVX-512 training kernels with bfloat16 attention; CMakeLists.txt gives this file its flags.
#define MINDFORGE_ISA avx512bf16
#define MINDFORGE_SIMD_WIDTH 16
#define MINDFORGE_SIMD_BF16 1
#include "worker/kernels/attention_bf16_impl.h"
#include "worker/kernels/kernel_table_impl.h"
#include "worker/kernels/kernel_tables.h"

namespace mindforge {

const TrainKernels<Bf16>& Bf16Kernels_avx512bf16() {
  static const TrainKernels<Bf16> table = [] {
    TrainKernels<Bf16> k = avx512bf16::MakeTrainKernels<Bf16>();
    k.attention_workspace = avx512bf16::PairAttentionWorkspace;
    k.attention_backward_workspace = avx512bf16::PairBackwardWorkspace;
    k.attention = avx512bf16::PairAttention;
    k.attention_backward = avx512bf16::PairAttentionBackward;
    return k;
  }();
  return table;
}

}  // namespace mindforge
