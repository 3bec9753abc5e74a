// Primitives of compute capability 9.0 (sm_90a): mbarriers, tiles copied by the tensor memory
// accelerator, and warpgroup products whose right operand lies in shared memory. Tiles are rows of
// 64 elements of 2 bytes, 128 bytes, with the 16-byte columns of row r exchanged by r % 8 (the 128
// byte swizzle), at addresses that are multiples of 1024.
#pragma once

#include <cuda.h>
#include <stdint.h>

#include <type_traits>

#include "worker/kernels/train_kernels.h"

namespace mindforge::cuda {

inline constexpr int kTileRowBytes = 128;

// A lane's 16 bytes in a swizzled tile.
__device__ __forceinline__ uint32_t Swizzled(int row, int column16) {
  return row * kTileRowBytes + ((column16 ^ (row & 7)) << 4);
}

__device__ __forceinline__ void InitBarrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// After InitBarrier and before a __syncthreads.
__device__ __forceinline__ void FenceBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void ArriveExpecting(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void WaitBarrier(uint32_t barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "wait:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra wait;\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// Copies the box at (column, row) of a matrix; its bytes complete on `barrier`.
__device__ __forceinline__ void CopyBox(uint32_t to, const CUtensorMap& map, int column, int row,
                                        uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
      "%3}], [%4];" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

// A tile as a right operand. From one block of 16 of the summed dimension to the next it moves by
// kRowStep where that dimension lies along the rows' elements, by kColumnStep where it counts rows.
__device__ __forceinline__ uint64_t Operand(uint32_t tile) {
  return (tile & 0x3ffff) >> 4 | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
inline constexpr int kRowStep = 32 >> 4;
inline constexpr int kColumnStep = 16 * kTileRowBytes >> 4;

__device__ __forceinline__ void BeginProducts() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void WaitForProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from reading accumulators before the wait above.
__device__ __forceinline__ void Settle(float (&c)[8][4]) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("" : "+f"(c[n][e])::"memory");
  }
}

#define MINDFORGE_ACCUMULATORS                                                                  \
  "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),     \
      "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), \
      "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]), \
      "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]), \
      "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]), \
      "+f"(c[7][2]), "+f"(c[7][3])
#define MINDFORGE_WGMMA(type, a, operands)                                                       \
  "{\n"                                                                                          \
  ".reg .pred p;\n"                                                                              \
  "setp.ne.b32 p, " operands                                                                     \
  ";\n"                                                                                          \
  "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                                    \
  " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
  "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, " a ";\n}\n"

// c = a · bᵀ for 16 of the summed elements, both along the rows of their tiles, enqueued; c[n] as
// mma.cuh's accumulators in each of the 4 warps.
template <typename T>
__device__ __forceinline__ void EnqueueRows(float (&c)[8][4], uint64_t a, uint64_t b,
                                            int accumulate) {
  if constexpr (std::is_same_v<T, Bf16>) {
    asm volatile(MINDFORGE_WGMMA("bf16", "%32, %33, p, 1, 1, 0, 0", "%34, 0")
                 : MINDFORGE_ACCUMULATORS
                 : "l"(a), "l"(b), "r"(accumulate));
  } else {
    asm volatile(MINDFORGE_WGMMA("f16", "%32, %33, p, 1, 1, 0, 0", "%34, 0")
                 : MINDFORGE_ACCUMULATORS
                 : "l"(a), "l"(b), "r"(accumulate));
  }
}

// c += a · b, a as mma.cuh's A operand; b's summed dimension counts the rows of its tile.
template <typename T>
__device__ __forceinline__ void EnqueueColumns(float (&c)[8][4], const uint32_t (&a)[4],
                                               uint64_t b) {
  if constexpr (std::is_same_v<T, Bf16>) {
    asm volatile(MINDFORGE_WGMMA("bf16", "{%32, %33, %34, %35}, %36, p, 1, 1, 1", "1, 0")
                 : MINDFORGE_ACCUMULATORS
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  } else {
    asm volatile(MINDFORGE_WGMMA("f16", "{%32, %33, %34, %35}, %36, p, 1, 1, 1", "1, 0")
                 : MINDFORGE_ACCUMULATORS
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  }
}
#undef MINDFORGE_WGMMA
#undef MINDFORGE_ACCUMULATORS

// c = a · bᵀ of two [64, 64] tiles and c += a · b with the left one in registers, each as one
// group. Left operands that outlive a loop's turn stay in shared memory: nvcc 13.0 reuses their
// registers.
template <typename T>
__device__ __forceinline__ void EnqueueTransposed(float (&c)[8][4], uint32_t a, uint32_t b) {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    EnqueueRows<T>(c, Operand(a) + step * kRowStep, Operand(b) + step * kRowStep, step > 0);
  }
  CommitProducts();
}
template <typename T>
__device__ __forceinline__ void EnqueueSum(float (&c)[8][4], const uint32_t (&a)[4][4],
                                           uint32_t b) {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    EnqueueColumns<T>(c, a[step], Operand(b) + step * kColumnStep);
  }
  CommitProducts();
}

}  // namespace mindforge::cuda
