// What the parts of the table's model share while a pass runs: the model's places, its column of
// the kernels, the buffers, the microbatch as rows of tokens, and the products that several parts
// need. It does not know the order of the layers.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>

#include "worker/kernels/rope.h"
#include "worker/kernels/train_kernels.h"
#include "worker/model/buffers.h"
#include "worker/model/device_arrays.h"
#include "worker/model/dropout_place.h"
#include "worker/model/layout.h"
#include "worker/model/minimind.h"
#include "worker/model/token_rows.h"

// The types that the parts are instantiated for: MACRO(T) for each.
#ifdef MINDFORGE_CUDA
#define MINDFORGE_FOR_COMPUTE_TYPES(MACRO) MACRO(float) MACRO(Bf16) MACRO(Half)
#else
#define MINDFORGE_FOR_COMPUTE_TYPES(MACRO) MACRO(float) MACRO(Bf16)
#endif

namespace mindforge {

inline float* Floats(const at::Tensor& x) { return x.mutable_data_ptr<float>(); }

// What kernels read of a microbatch and of RopeTables; TokenRows says what each holds.
struct PassArrays {
  const int64_t* starts = nullptr;
  const int64_t* ids = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* rows = nullptr;
  const int32_t* first_key = nullptr;
  const int32_t* logit_rows = nullptr;
  const int32_t* logit_places = nullptr;
  const int64_t* logit_targets = nullptr;
  const uint8_t* logit_mask = nullptr;
  const uint8_t* key_mask = nullptr;  // fused attention
  const float* rope_cos = nullptr;
  const float* rope_sin = nullptr;
};

// T: float or Bf16, on CUDA also Half. Borrows the model, whose member it is.
template <typename T>
class Pass {
 public:
  explicit Pass(const Minimind& model);

  static T* Data(const at::Tensor& x) { return static_cast<T*>(x.mutable_data_ptr()); }

  // Begins a pass over `rows`, set before. `key_mask` as Logits documents its padding mask;
  // `document_ids` only for the plain attention.
  void Begin(bool training, const PassOptions& pass_options, const at::Tensor& document_ids,
             const at::Tensor& key_mask);

  // out (+)= a · b.
  void Multiply(at::Tensor out, const at::Tensor& a, const at::Tensor& b, bool accumulate = false);
  // What products read, and the float32 weights.
  at::Tensor Weights(int64_t offset, int64_t out, int64_t in) const;
  const float* Master(int64_t offset) const { return Floats(model_.flat_parameters()) + offset; }
  // Where the gradient of the parameter at `offset` goes; null when it is not trained.
  float* Gradient(int64_t offset) const;
  // The gradient of the matrix at `offset`, [left's columns, right's columns] = leftᵀ · right;
  // zero without rows. Nothing when it is not trained.
  void WeightGradient(const at::Tensor& left, const at::Tensor& right, int64_t offset);

  // h = residual + delta, y = norm(h) times the weight at `offset`.
  void AddNorm(const float* residual, const T* delta, int64_t offset, const at::Tensor& h,
               const at::Tensor& rstd, const at::Tensor& y) const;
  // buffers.dh (+)= the gradient through y = norm(h) · w.
  void NormBackward(const at::Tensor& dy, const at::Tensor& h, const at::Tensor& rstd,
                    int64_t offset, bool accumulate);

  // An adapter beside a projection y of x: y += B(A x); dx += its share; A's and B's gradients. All
  // do nothing when there is none.
  void AddAdapter(const AdapterOffsets& adapter, const at::Tensor& x, at::Tensor y);
  void AdapterInputGradient(const AdapterOffsets& adapter, const at::Tensor& dy, at::Tensor dx);
  void AdapterGradient(const AdapterOffsets& adapter, const at::Tensor& x, const at::Tensor& dy);

  bool dropping() const { return training && config.dropout > 0; }
  DropoutSite Site(int64_t layer, DropoutPlace place) const;
  TokenPlaces Places() const { return {arrays.rows, arrays.positions}; }
  // Drops elements of x [n, hidden] into y, which may be x.
  void Drop(int64_t layer, DropoutPlace place, int64_t index, const at::Tensor& x,
            const at::Tensor& y) const;
  // The gradient of a block's output, dropped as the output was.
  const at::Tensor& OutputGradient(int64_t layer, DropoutPlace place, int64_t index) const;

  // The rows of x [any, hidden] that `tokens` names, in its order; zeros for -1.
  void GatherRows(const int32_t* tokens, const at::Tensor& x, const at::Tensor& out) const;
  // The filling takes no part in attention and routing, but in the products around them.
  void ClearFilling(const at::Tensor& x) const;

  bool plain_attention() const {
    return options.attention == AttentionPath::kPlain || sizes.head_dim > kMaxFusedHeadDim;
  }

  const ModelConfig& config;
  const MinimindOptions& options;
  const c10::Device device;
  const ModelSizes sizes;
  const ModelOffsets offsets;
  const TrainKernels<T>& kernels;
  const TrainKernels<float>& float_kernels;
  Buffers buffers;
  TokenRows rows;

  // Of the pass at hand.
  Parallel parallel;
  PassArrays arrays;
  bool training = false;
  PassOptions pass;
  at::Tensor gradient;        // float32 [trained_count]
  double auxiliary_loss = 0;  // of the layers so far
  at::Tensor visible;         // plain attention

 private:
  const Minimind& model_;
  const int64_t trained_offset_;
  RopeTables rope_;
  DeviceArrays sent_rope_, sent_rows_;
  at::Tensor key_mask_;
};

#define MINDFORGE_EXTERN_PASS(T) extern template class Pass<T>;
MINDFORGE_FOR_COMPUTE_TYPES(MINDFORGE_EXTERN_PASS)
#undef MINDFORGE_EXTERN_PASS

}  // namespace mindforge
