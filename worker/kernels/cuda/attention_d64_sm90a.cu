// Launches of attention's Hopper kernels.
#include "worker/kernels/cuda/attention_hopper_backward.cuh"
#include "worker/kernels/cuda/attention_hopper_forward.cuh"
#include "worker/kernels/cuda/attention_launch.cuh"

namespace mindforge::cuda {
namespace {

bool IsHopper() {
  int device = 0, major = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         major == 9;
}

using Encode = decltype(&cuTensorMapEncodeTiled);
// From the driver that the runtime has loaded: linking it would keep programs from starting on
// machines without one.
Encode FindEncode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                       cudaEnableDefault, &result) != cudaSuccess ||
      result != cudaDriverEntryPointSuccess) {
    return nullptr;
  }
  return reinterpret_cast<Encode>(function);
}

// Boxes of 64 tokens of one head.
template <typename T>
bool MakeMap(const T* base, int64_t heads, int64_t tokens, int64_t stride, CUtensorMap* map) {
  static const Encode encode = FindEncode();
  if (encode == nullptr) return false;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(heads * kHopperDim),
                               static_cast<cuuint64_t>(tokens)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(stride) * sizeof(T)};
  const cuuint32_t box[2] = {kHopperDim, kHopperRows}, steps[2] = {1, 1};
  return encode(map,
                std::is_same_v<T, Bf16> ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                        : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                2, const_cast<T*>(base), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <typename T>
struct Maps {
  CUtensorMap q, k, v;
  bool made;
  Maps(const Attention& s, const AttentionInputs<T>& in)
      : made(IsHopper() && MakeMap(in.q, s.heads, s.tokens, s.stride, &q) &&
             MakeMap(in.k, s.kv_heads, s.tokens, s.stride, &k) &&
             MakeMap(in.v, s.kv_heads, s.tokens, s.stride, &v)) {}
};

}  // namespace

template <typename T>
bool HopperForward(cudaStream_t stream, const Attention& s, const AttentionInputs<T>& in, T* out,
                   float* log2_sum) {
  const Maps<T> maps(s, in);
  if (!maps.made) return false;
  using Queries = HopperQueries<kForwardGroups>;
  Launch(HopperForwardKernel<T>, Queries::Grid(s), 128 * kForwardGroups, kForwardBytes, stream, s,
         Queries::Chunks(s), maps.q, maps.k, maps.v, out, log2_sum);
  return true;
}

template <typename T>
bool HopperBackward(cudaStream_t stream, const Attention& s, const AttentionInputs<T>& in,
                    const AttentionGradients<T>& g) {
  const Maps<T> maps(s, in);
  CUtensorMap d_out;
  if (!maps.made || !MakeMap(g.d_out, s.heads, s.tokens, s.out_stride, &d_out)) return false;
  using Queries = HopperQueries<kQueryGroups>;
  Launch(HopperQueryGradientKernel<T>, Queries::Grid(s), 128 * kQueryGroups, kQueryGradientBytes,
         stream, s, Queries::Chunks(s), maps.q, maps.k, maps.v, d_out, g.out, g.log2_sum, g.dq,
         g.delta);
  constexpr int kKeys = kKeyGroups * kHopperRows;
  const int chunks = (s.length + kKeys - 1) / kKeys;
  Launch(HopperKeyGradientKernel<T>, static_cast<unsigned>(chunks * s.batch * s.kv_heads),
         128 * kKeyGroups, kKeyGradientBytes, stream, s, chunks, maps.q, maps.k, maps.v, d_out,
         g.log2_sum, static_cast<const float*>(g.delta), g.dk, g.dv);
  return true;
}

template bool HopperForward(cudaStream_t, const Attention&, const AttentionInputs<Bf16>&, Bf16*,
                            float*);
template bool HopperForward(cudaStream_t, const Attention&, const AttentionInputs<Half>&, Half*,
                            float*);
template bool HopperBackward(cudaStream_t, const Attention&, const AttentionInputs<Bf16>&,
                             const AttentionGradients<Bf16>&);
template bool HopperBackward(cudaStream_t, const Attention&, const AttentionInputs<Half>&,
                             const AttentionGradients<Half>&);

}  // namespace mindforge::cuda
