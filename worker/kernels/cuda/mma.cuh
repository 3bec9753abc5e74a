// Tensor-core primitives that every card from sm_80 has: m16n8k16 products of 16-bit operands,
// ldmatrix, cp.async. Of a warp's lane, r = lane / 4 and c = lane % 4:
//   accumulator [16, 8]: {(r, 2c), (r, 2c+1), (r+8, 2c), (r+8, 2c+1)};
//   A [16, 16]: the same of the columns 0-7 packed in pairs, then of the columns 8-15 — so two
//   neighbouring accumulators, packed, are an A operand.
// Tiles in shared memory have rows of kPad extra elements: 8 rows' equal 16-byte columns then lie
// in different banks, and addresses stay a base and a constant.
#pragma once

#include <stdint.h>

#include <type_traits>

#include "worker/kernels/train_kernels.h"

namespace mindforge::cuda {

inline constexpr int kPad = 8;  // elements of 2 bytes

template <typename T>
__device__ __forceinline__ void Mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  if constexpr (std::is_same_v<T, Bf16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void LoadMatrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

__device__ __forceinline__ void LoadTransposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

// Lane's element in a 16 x 16 block of rows of `stride` elements, for LoadMatrices as an A operand
// ([m][k] in memory) and for LoadTransposed as two B operands ([k][n] in memory: columns 0-7 get
// registers 0 and 1, columns 8-15 registers 2 and 3).
__device__ __forceinline__ int LaneOfA(int lane, int stride) {
  return lane % 16 * stride + lane / 16 * 8;
}
// For LoadMatrices as two B operands ([n][k] in memory): rows 0-7 get registers 0 and 1.
__device__ __forceinline__ int LaneOfB(int lane, int stride) {
  return (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8;
}

// Copies 16 bytes, or writes zeros.
__device__ __forceinline__ void CopyAsync(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void CopyWord(uint32_t to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// 2^x to about 2 ulp; 0 for what would be denormal.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace mindforge::cuda
