// What the parts of the CPU backend share while a pass runs: the model's places, its kernels, the
// buffers, the microbatch as rows of tokens, and the products that several parts need. It does not
// know the order of the layers.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "worker/kernels/rope.h"
#include "worker/kernels/train_kernels.h"
#include "worker/model/cpu_buffers.h"
#include "worker/model/dropout_place.h"
#include "worker/model/layout.h"
#include "worker/model/minimind.h"
#include "worker/model/token_rows.h"

namespace mindforge {

inline float* Floats(const at::Tensor& x) { return x.mutable_data_ptr<float>(); }

// T: float or Bf16. Borrows the model, whose member it is.
template <typename T>
class CpuPass {
 public:
  explicit CpuPass(const Minimind& model);

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
  TokenPlaces Places() const { return {rows.rows.data(), rows.positions.data()}; }
  // Drops elements of x [n, hidden] into y, which may be x.
  void Drop(int64_t layer, DropoutPlace place, int64_t index, const at::Tensor& x,
            const at::Tensor& y) const;
  // The gradient of a block's output, dropped as the output was.
  const at::Tensor& OutputGradient(int64_t layer, DropoutPlace place, int64_t index) const;

  // The filling takes no part in attention and routing, but in the products around them.
  void ClearFilling(const at::Tensor& x) const;

  bool plain_attention() const {
    return options.attention == AttentionPath::kPlain || sizes.head_dim > kMaxFusedHeadDim;
  }

  const ModelConfig& config;
  const MinimindOptions& options;
  const ModelSizes sizes;
  const ModelOffsets offsets;
  const TrainKernels<T>& kernels;
  const TrainKernels<float>& float_kernels;
  const Parallel parallel;
  CpuBuffers buffers;
  RopeTables rope;
  TokenRows rows;

  // Of the pass at hand.
  bool training = false;
  PassOptions pass;
  at::Tensor gradient;                // float32 [trained_count]
  double auxiliary_loss = 0;          // of the layers so far
  const uint8_t* key_mask = nullptr;  // fused attention
  at::Tensor visible;                 // plain attention

 private:
  const Minimind& model_;
  const int64_t trained_offset_;
};

extern template class CpuPass<float>;
extern template class CpuPass<Bf16>;

}  // namespace mindforge
