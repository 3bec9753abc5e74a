#include <initializer_list>
#include <limits>
#include <type_traits>

#include "worker/kernels/cuda/attention.h"
#include "worker/kernels/cuda/attention_launch.h"

namespace mindforge {
namespace {

using cuda::Attention;
using cuda::AttentionGradients;
using cuda::AttentionInputs;

// Whether the tensor-core kernels' 16-byte copies and 32-bit offsets in a row reach everything.
bool FitsTensorCores(const Attention& s, std::initializer_list<const void*> operands) {
  if (s.stride % 8 != 0 || s.out_stride % 8 != 0) return false;
  if (s.stride * s.length > std::numeric_limits<int32_t>::max()) return false;
  for (const void* operand : operands) {
    if (reinterpret_cast<uintptr_t>(operand) % 16 != 0) return false;
  }
  return true;
}

// Whether the Hopper kernels may try. Their tiles of 64 tokens run on into the next row, whose
// values count 0 times: only where they are not finite does a row see its neighbour.
bool FitsHopper(const Attention& s) {
  return s.head_dim == 64 && !s.drops && s.key_mask == nullptr;
}

// f<head_dim>() where kernels of it exist.
template <typename Function>
bool ForHeadDim(int head_dim, Function&& f) {
  switch (head_dim) {
    case 32:
      f(std::integral_constant<int, 32>());
      return true;
    case 64:
      f(std::integral_constant<int, 64>());
      return true;
    case 80:
      f(std::integral_constant<int, 80>());
      return true;
    case 96:
      f(std::integral_constant<int, 96>());
      return true;
    case 128:
      f(std::integral_constant<int, 128>());
      return true;
    default:
      return false;
  }
}

template <typename T>
bool IsEmpty(const AttentionShape<T>& s) {
  return s.batch == 0 || s.length == 0 || s.heads == 0;
}

}  // namespace

template <typename T>
int64_t CudaAttentionWorkspace(const AttentionShape<T>&) {
  return 0;
}

template <typename T>
int64_t CudaAttentionBackwardWorkspace(const AttentionShape<T>& s) {
  return s.heads * (s.starts == nullptr ? s.batch * s.length : s.tokens);
}

template <typename T>
void CudaAttention(const Parallel& parallel, const AttentionShape<T>& shape, const T* q, const T* k,
                   const T* v, T* out, float* log2_sum, float*) {
  if (IsEmpty(shape)) return;
  const auto stream = static_cast<cudaStream_t>(parallel.stream);
  const Attention s(shape);
  const AttentionInputs<T> in{q, k, v};
  if constexpr (!std::is_same_v<T, float>) {
    const bool fits = FitsTensorCores(s, {q, k, v, out});
    if (fits && FitsHopper(s) && cuda::HopperForward(stream, s, in, out, log2_sum)) {
      return;
    }
    if (fits && ForHeadDim(s.head_dim, [&](auto dim) {
          cuda::TensorForward<T, dim()>(stream, s, in, out, log2_sum);
        })) {
      return;
    }
  }
  cuda::ExactForward(stream, s, in, out, log2_sum);
}

template <typename T>
void CudaAttentionBackward(const Parallel& parallel, const AttentionShape<T>& shape, const T* q,
                           const T* k, const T* v, const T* out, const float* log2_sum,
                           const T* d_out, T* dq, T* dk, T* dv, float* workspace) {
  if (IsEmpty(shape)) return;
  const auto stream = static_cast<cudaStream_t>(parallel.stream);
  const Attention s(shape);
  const AttentionInputs<T> in{q, k, v};
  const AttentionGradients<T> gradients{out, log2_sum, d_out, dq, dk, dv, workspace};
  if constexpr (!std::is_same_v<T, float>) {
    const bool fits = FitsTensorCores(s, {q, k, v, out, d_out, dq, dk, dv});
    if (fits && FitsHopper(s) && cuda::HopperBackward(stream, s, in, gradients)) {
      return;
    }
    if (fits && ForHeadDim(s.head_dim, [&](auto dim) {
          cuda::TensorBackward<T, dim()>(stream, s, in, gradients);
        })) {
      return;
    }
  }
  cuda::ExactBackward(stream, s, in, gradients);
}

#define MINDFORGE_INSTANTIATE(T)                                                                \
  template int64_t CudaAttentionWorkspace(const AttentionShape<T>&);                            \
  template int64_t CudaAttentionBackwardWorkspace(const AttentionShape<T>&);                    \
  template void CudaAttention(const Parallel&, const AttentionShape<T>&, const T*, const T*,    \
                              const T*, T*, float*, float*);                                    \
  template void CudaAttentionBackward(const Parallel&, const AttentionShape<T>&, const T*,      \
                                      const T*, const T*, const T*, const float*, const T*, T*, \
                                      T*, T*, float*);
MINDFORGE_INSTANTIATE(float)
MINDFORGE_INSTANTIATE(Bf16)
MINDFORGE_INSTANTIATE(Half)
#undef MINDFORGE_INSTANTIATE

}  // namespace mindforge
