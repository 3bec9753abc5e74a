#include "worker/model/cpu_minimind.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "worker/kernels/rope.h"
#include "worker/kernels/train_kernels.h"
#include "worker/model/cpu_buffers.h"
#include "worker/model/layout.h"
#include "worker/model/microbatch.h"
#include "worker/model/plain_attention.h"

namespace mindforge {
namespace {

float* Floats(const at::Tensor& x) { return x.mutable_data_ptr<float>(); }

// One forward or backward's shape and masks.
struct Pass {
  int64_t batch = 0;
  int64_t length = 0;
  int64_t tokens = 0;
  const int64_t* ids = nullptr;
  const int32_t* first_key = nullptr;
  const uint8_t* key_mask = nullptr;
  at::Tensor visible;  // for the plain path
};

template <typename T>
class CpuMinimind : public Minimind {
 public:
  CpuMinimind(const ModelConfig& config, const MinimindOptions& options)
      : Minimind(config, c10::Device(c10::kCPU), options),
        sizes_(config),
        offsets_(sizes_, config.tie_word_embeddings),
        kernels_(GetTrainKernels<T>(DetectCpuIsa())),
        parallel_(TorchParallel()),
        buffers_(sizes_, std::is_same_v<T, float> ? at::kFloat : at::kBFloat16) {}

  absl::StatusOr<at::Tensor> ForwardBackward(const Microbatch& microbatch,
                                             const at::Tensor& gradient) override;
  absl::StatusOr<at::Tensor> Logits(const at::Tensor& input_ids, const at::Tensor& padding_mask,
                                    int64_t logits_to_keep) override;

 private:
  static T* Data(const at::Tensor& x) { return static_cast<T*>(x.mutable_data_ptr()); }

  Pass Begin(const at::Tensor& ids, const at::Tensor& document_ids, const at::Tensor& key_mask);
  void Forward(const Pass& pass);
  void AttentionForward(const Pass& pass, LayerBuffers& layer);
  // Logits of the rows in buffers_.kept_rows (all when `rows` is every token), in order.
  at::Tensor KeptLogits(const Pass& pass);
  double LossAndHeadBackward(const Pass& pass, const uint8_t* mask, const at::Tensor& gradient);
  void LayerBackward(const Pass& pass, int64_t index, const at::Tensor& gradient);
  void AttentionBackward(const Pass& pass, LayerBuffers& layer);
  // gradient[offset …] as [rows, columns] = leftᵀ · right.
  void WeightGradient(const at::Tensor& left, const at::Tensor& right, const at::Tensor& gradient,
                      int64_t offset);
  void NormBackward(const Pass& pass, const at::Tensor& dy, const at::Tensor& h,
                    const at::Tensor& rstd, int64_t offset, bool accumulate,
                    const at::Tensor& gradient);
  AttentionShape<T> Shape(const Pass& pass) const;
  const float* Norm(int64_t offset) const { return Floats(flat_parameters_) + offset; }
  void EnsureRope(int64_t positions) {
    if (rope_.positions < positions) rope_ = MakeRopeTables(config_, positions);
  }
  bool Plain() const {
    return options_.attention == AttentionPath::kPlain || sizes_.head_dim > kMaxFusedHeadDim;
  }

  const ModelSizes sizes_;
  const ModelOffsets offsets_;
  const TrainKernels<T>& kernels_;
  const Parallel parallel_;
  CpuBuffers buffers_;
  RopeTables rope_;
};

template <typename T>
AttentionShape<T> CpuMinimind<T>::Shape(const Pass& pass) const {
  AttentionShape<T> shape;
  shape.batch = pass.batch;
  shape.length = pass.length;
  shape.heads = sizes_.heads;
  shape.kv_heads = sizes_.kv_heads;
  shape.head_dim = sizes_.head_dim;
  shape.stride = sizes_.qkv;
  shape.out_stride = sizes_.attention;
  shape.first_key = pass.first_key;
  shape.key_mask = pass.key_mask;
  return shape;
}

template <typename T>
Pass CpuMinimind<T>::Begin(const at::Tensor& ids, const at::Tensor& document_ids,
                           const at::Tensor& key_mask) {
  Pass pass;
  pass.batch = ids.size(0);
  pass.length = ids.size(1);
  pass.tokens = ids.numel();
  pass.ids = ids.const_data_ptr<int64_t>();
  buffers_.Resize(pass.tokens);
  EnsureRope(pass.length);
  if (document_ids.defined()) {
    buffers_.first_key = FirstKeys(document_ids);
    pass.first_key = buffers_.first_key.data();
  }
  if (key_mask.defined()) pass.key_mask = static_cast<const uint8_t*>(key_mask.const_data_ptr());
  if (Plain()) pass.visible = VisiblePairs(pass.length, device_, document_ids, key_mask);
  return pass;
}

// The heads of a fused projection as [B, T, heads, D].
at::Tensor Heads(const at::Tensor& x, const Pass& pass, int64_t begin, int64_t heads, int64_t dim) {
  return x.view({pass.batch, pass.length, x.size(1)})
      .narrow(2, begin * dim, heads * dim)
      .unflatten(2, {heads, dim});
}

template <typename T>
void CpuMinimind<T>::AttentionForward(const Pass& pass, LayerBuffers& layer) {
  const int64_t heads = sizes_.heads;
  const int64_t kv = sizes_.kv_heads;
  const int64_t dim = sizes_.head_dim;
  T* qkv = Data(layer.qkv);
  kernels_.rope(parallel_, pass.tokens, pass.length, heads + kv, dim, sizes_.qkv, rope_.cos.data(),
                rope_.sin.data(), 1.0f, qkv);
  if (Plain()) {
    Heads(layer.attention, pass, 0, heads, dim)
        .copy_(PlainAttention(Heads(layer.qkv, pass, 0, heads, dim),
                              Heads(layer.qkv, pass, heads, kv, dim),
                              Heads(layer.qkv, pass, heads + kv, kv, dim), pass.visible));
    return;
  }
  const AttentionShape<T> shape = Shape(pass);
  kernels_.attention(parallel_, shape, qkv, qkv + heads * dim, qkv + (heads + kv) * dim,
                     Data(layer.attention), Floats(layer.log2_sum),
                     buffers_.Workspace(kernels_.attention_workspace(shape)));
}

template <typename T>
void CpuMinimind<T>::Forward(const Pass& pass) {
  const int64_t n = pass.tokens;
  const int64_t c = sizes_.hidden;
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  CpuBuffers& b = buffers_;
  kernels_.embed(parallel_, n, c, pass.ids, Floats(flat_parameters_), Floats(b.layers[0].h1));
  const T* delta = nullptr;  // what the layer before adds to the residual stream
  const float* residual = Floats(b.layers[0].h1);
  for (int64_t i = 0; i < sizes_.layers; ++i) {
    LayerBuffers& layer = b.layers[i];
    const LayerOffsets& at = offsets_.layers[i];
    kernels_.add_norm(parallel_, n, c, residual, delta, Norm(at.norm1), eps, Floats(layer.h1),
                      Floats(layer.rstd1), Data(layer.x1));
    at::mm_out(layer.qkv, layer.x1, ProductWeights(at.qkv, sizes_.qkv, c).t());
    AttentionForward(pass, layer);
    at::mm_out(b.delta, layer.attention, ProductWeights(at.o, c, sizes_.attention).t());
    kernels_.add_norm(parallel_, n, c, Floats(layer.h1), Data(b.delta), Norm(at.norm2), eps,
                      Floats(layer.h2), Floats(layer.rstd2), Data(layer.x2));
    at::mm_out(layer.gate_up, layer.x2, ProductWeights(at.gate_up, 2 * sizes_.inner, c).t());
    kernels_.swiglu(parallel_, n, sizes_.inner, Data(layer.gate_up), Data(b.inner));
    at::mm_out(b.delta, b.inner, ProductWeights(at.down, c, sizes_.inner).t());
    delta = Data(b.delta);
    residual = Floats(layer.h2);
  }
  kernels_.add_norm(parallel_, n, c, residual, delta, Norm(offsets_.norm), eps, Floats(b.h),
                    Floats(b.rstd), Data(b.x));
}

template <typename T>
at::Tensor CpuMinimind<T>::KeptLogits(const Pass& pass) {
  CpuBuffers& b = buffers_;
  const int64_t c = sizes_.hidden;
  const auto kept = static_cast<int64_t>(b.kept_rows.size());
  at::Tensor x = b.x;
  if (kept != pass.tokens) {
    for (int64_t i = 0; i < kept; ++i) {
      std::memcpy(Data(b.x_kept) + i * c, Data(b.x) + b.kept_rows[i] * c, c * sizeof(T));
    }
    x = b.x_kept.narrow(0, 0, kept);
  }
  at::Tensor logits = b.logits.narrow(0, 0, kept);
  at::mm_out(logits, x, ProductWeights(offsets_.head, sizes_.vocab, c).t());
  return logits;
}

template <typename T>
void CpuMinimind<T>::WeightGradient(const at::Tensor& left, const at::Tensor& right,
                                    const at::Tensor& gradient, int64_t offset) {
  const int64_t size = left.size(1) * right.size(1);
  at::Tensor target = gradient.narrow(0, offset, size);
  at::Tensor out = (std::is_same_v<T, float> ? target : buffers_.product.narrow(0, 0, size))
                       .view({left.size(1), right.size(1)});
  at::mm_out(out, left.t(), right);
  if constexpr (!std::is_same_v<T, float>) {
    kernels_.to_float(parallel_, size, Data(out), Floats(target));
  }
}

template <typename T>
void CpuMinimind<T>::NormBackward(const Pass& pass, const at::Tensor& dy, const at::Tensor& h,
                                  const at::Tensor& rstd, int64_t offset, bool accumulate,
                                  const at::Tensor& gradient) {
  T* cast = std::is_same_v<T, float> ? nullptr : Data(buffers_.dh_cast);
  kernels_.norm_backward(parallel_, pass.tokens, sizes_.hidden, Data(dy), Floats(h), Floats(rstd),
                         Norm(offset), accumulate, Floats(buffers_.dh), cast,
                         Floats(gradient) + offset, Floats(buffers_.partials));
}

template <typename T>
double CpuMinimind<T>::LossAndHeadBackward(const Pass& pass, const uint8_t* mask,
                                           const at::Tensor& gradient) {
  CpuBuffers& b = buffers_;
  const int64_t c = sizes_.hidden;
  const auto kept = static_cast<int64_t>(b.kept_rows.size());
  const bool all = kept == pass.tokens;
  at::Tensor logits = KeptLogits(pass);
  kernels_.cross_entropy(parallel_, kept, sizes_.vocab, b.kept_targets.data(), nullptr,
                         1.0f / static_cast<float>(kept), Data(logits), Floats(b.row_loss));
  double loss = 0;
  for (int64_t i = 0; i < kept; ++i) loss += static_cast<double>(Floats(b.row_loss)[i]);
  at::Tensor dx = all ? b.dx : b.dx_kept.narrow(0, 0, kept);
  at::mm_out(dx, logits, ProductWeights(offsets_.head, sizes_.vocab, c));
  WeightGradient(logits, all ? b.x : b.x_kept.narrow(0, 0, kept), gradient, offsets_.head);
  if (!all) {
    std::memset(static_cast<void*>(Data(b.dx)), 0, pass.tokens * c * sizeof(T));
    for (int64_t i = 0; i < kept; ++i) {
      std::memcpy(Data(b.dx) + b.kept_rows[i] * c, Data(dx) + i * c, c * sizeof(T));
    }
  }
  NormBackward(pass, b.dx, b.h, b.rstd, offsets_.norm, /*accumulate=*/false, gradient);
  return loss / static_cast<double>(kept);
}

template <typename T>
void CpuMinimind<T>::AttentionBackward(const Pass& pass, LayerBuffers& layer) {
  const int64_t heads = sizes_.heads;
  const int64_t kv = sizes_.kv_heads;
  const int64_t dim = sizes_.head_dim;
  at::Tensor& dqkv = buffers_.dqkv;
  if (Plain()) {
    const auto [dq, dk, dv] = PlainAttentionBackward(
        Heads(layer.qkv, pass, 0, heads, dim), Heads(layer.qkv, pass, heads, kv, dim),
        Heads(layer.qkv, pass, heads + kv, kv, dim), pass.visible,
        Heads(buffers_.dattention, pass, 0, heads, dim));
    Heads(dqkv, pass, 0, heads, dim).copy_(dq);
    Heads(dqkv, pass, heads, kv, dim).copy_(dk);
    Heads(dqkv, pass, heads + kv, kv, dim).copy_(dv);
  } else {
    const AttentionShape<T> shape = Shape(pass);
    const T* qkv = Data(layer.qkv);
    kernels_.attention_backward(parallel_, shape, qkv, qkv + heads * dim, qkv + (heads + kv) * dim,
                                Data(layer.attention), Floats(layer.log2_sum),
                                Data(buffers_.dattention), Data(dqkv), Data(dqkv) + heads * dim,
                                Data(dqkv) + (heads + kv) * dim,
                                buffers_.Workspace(kernels_.attention_backward_workspace(shape)));
  }
  kernels_.rope(parallel_, pass.tokens, pass.length, heads + kv, dim, sizes_.qkv, rope_.cos.data(),
                rope_.sin.data(), -1.0f, Data(dqkv));
}

template <typename T>
void CpuMinimind<T>::LayerBackward(const Pass& pass, int64_t index, const at::Tensor& gradient) {
  CpuBuffers& b = buffers_;
  LayerBuffers& layer = b.layers[index];
  const LayerOffsets& at = offsets_.layers[index];
  const int64_t c = sizes_.hidden;
  at::mm_out(b.dinner, b.dh_cast, ProductWeights(at.down, c, sizes_.inner));
  kernels_.swiglu_backward(parallel_, pass.tokens, sizes_.inner, Data(b.dinner),
                           Data(layer.gate_up), Data(b.inner));
  WeightGradient(b.dh_cast, b.inner, gradient, at.down);
  at::mm_out(b.dx, layer.gate_up, ProductWeights(at.gate_up, 2 * sizes_.inner, c));
  WeightGradient(layer.gate_up, layer.x2, gradient, at.gate_up);
  NormBackward(pass, b.dx, layer.h2, layer.rstd2, at.norm2, /*accumulate=*/true, gradient);

  at::mm_out(b.dattention, b.dh_cast, ProductWeights(at.o, c, sizes_.attention));
  WeightGradient(b.dh_cast, layer.attention, gradient, at.o);
  AttentionBackward(pass, layer);
  at::mm_out(b.dx, b.dqkv, ProductWeights(at.qkv, sizes_.qkv, c));
  WeightGradient(b.dqkv, layer.x1, gradient, at.qkv);
  NormBackward(pass, b.dx, layer.h1, layer.rstd1, at.norm1, /*accumulate=*/true, gradient);
}

template <typename T>
absl::StatusOr<at::Tensor> CpuMinimind<T>::ForwardBackward(const Microbatch& microbatch,
                                                           const at::Tensor& gradient) {
  const absl::Status checked = CheckMicrobatch(config_, microbatch, gradient, parameter_count_);
  if (!checked.ok()) return checked;
  const at::NoGradGuard no_grad;
  CpuBuffers& b = buffers_;
  const Pass pass = Begin(microbatch.input_ids, microbatch.document_ids, {});
  const auto* mask = static_cast<const uint8_t*>(microbatch.mask.const_data_ptr());
  const auto* targets = microbatch.targets.const_data_ptr<int64_t>();
  // Rows without a target have no loss: their logits are never computed.
  b.kept_rows.clear();
  b.kept_targets.clear();
  for (int64_t i = 0; i < pass.tokens; ++i) {
    if (mask[i] == 0) continue;
    b.kept_rows.push_back(i);
    b.kept_targets.push_back(targets[i]);
  }
  if (b.kept_rows.empty()) {
    gradient.zero_();
    return at::zeros({}, at::kFloat);
  }
  Forward(pass);
  const double loss = LossAndHeadBackward(pass, mask, gradient);
  for (int64_t i = sizes_.layers - 1; i >= 0; --i) LayerBackward(pass, i, gradient);
  if (!config_.tie_word_embeddings) {
    gradient.narrow(0, 0, sizes_.vocab * sizes_.hidden).zero_();
  }
  kernels_.embed_backward(parallel_, pass.tokens, sizes_.hidden, pass.ids, Floats(b.dh),
                          Floats(gradient));
  return at::scalar_tensor(loss, at::kFloat);
}

template <typename T>
absl::StatusOr<at::Tensor> CpuMinimind<T>::Logits(const at::Tensor& input_ids,
                                                  const at::Tensor& padding_mask,
                                                  int64_t logits_to_keep) {
  const absl::Status checked =
      CheckLogitsArguments(config_, input_ids, padding_mask, logits_to_keep);
  if (!checked.ok()) return checked;
  const at::NoGradGuard no_grad;
  const Pass pass = Begin(input_ids, {}, padding_mask);
  const int64_t keep = logits_to_keep == 0 ? pass.length : logits_to_keep;
  buffers_.kept_rows.clear();
  for (int64_t i = 0; i < pass.tokens; ++i) {
    if (i % pass.length >= pass.length - keep) buffers_.kept_rows.push_back(i);
  }
  Forward(pass);
  return KeptLogits(pass)
      .to(at::kFloat, /*non_blocking=*/false, /*copy=*/true)
      .view({pass.batch, keep, sizes_.vocab});
}

}  // namespace

Parallel TorchParallel() {
  Parallel parallel;
  parallel.run = [](void*, int64_t count, Parallel::Task task, void* context) {
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) task(context, i);
    });
  };
  return parallel;
}

std::unique_ptr<Minimind> MakeCpuMinimind(const ModelConfig& config,
                                          const MinimindOptions& options) {
  if (options.compute == ComputeDtype::kFloat32) {
    return std::make_unique<CpuMinimind<float>>(config, options);
  }
  return std::make_unique<CpuMinimind<Bf16>>(config, options);
}

}  // namespace mindforge
