#include "worker/model/cpu_minimind.h"

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "worker/kernels/rope.h"
#include "worker/kernels/train_kernels.h"
#include "worker/model/cpu_buffers.h"
#include "worker/model/layout.h"
#include "worker/model/microbatch.h"
#include "worker/model/plain_attention.h"
#include "worker/model/token_rows.h"
#include "worker/model/torch_parallel.h"

namespace mindforge {
namespace {

float* Floats(const at::Tensor& x) { return x.mutable_data_ptr<float>(); }

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
                                             const at::Tensor& gradient,
                                             const PassOptions& pass) override;
  absl::StatusOr<LossSum> EvaluateLoss(const Microbatch& microbatch) override;
  absl::StatusOr<at::Tensor> Logits(const at::Tensor& input_ids, const at::Tensor& padding_mask,
                                    int64_t logits_to_keep) override;

 private:
  static T* Data(const at::Tensor& x) { return static_cast<T*>(x.mutable_data_ptr()); }

  // Readies buffers for rows_; `key_mask` as Logits documents its padding mask.
  void Begin(const at::Tensor& ids, const at::Tensor& document_ids, const at::Tensor& key_mask);
  void Forward();
  void AttentionForward(LayerBuffers& layer);
  // Logits of rows_.logit_rows, and in `x` the normed activations they come from.
  at::Tensor ListedLogits(at::Tensor* x);
  double LossAndHeadBackward(const at::Tensor& gradient, float loss_scale);
  void LayerBackward(int64_t index, const at::Tensor& gradient);
  void AttentionBackward(LayerBuffers& layer);
  // The filling takes no part in attention, but in the products around it.
  void ClearFilling(const at::Tensor& x);
  // gradient[offset …] as [rows, columns] = leftᵀ · right.
  void WeightGradient(const at::Tensor& left, const at::Tensor& right, const at::Tensor& gradient,
                      int64_t offset);
  void NormBackward(const at::Tensor& dy, const at::Tensor& h, const at::Tensor& rstd,
                    int64_t offset, bool accumulate, const at::Tensor& gradient);
  AttentionShape<T> Shape() const;
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
  TokenRows rows_;  // of the microbatch at hand, as the next two
  const uint8_t* key_mask_ = nullptr;
  at::Tensor visible_;  // for the plain path
};

template <typename T>
AttentionShape<T> CpuMinimind<T>::Shape() const {
  AttentionShape<T> shape;
  shape.batch = rows_.batch;
  shape.length = rows_.longest;
  shape.starts = rows_.starts.data();
  shape.heads = sizes_.heads;
  shape.kv_heads = sizes_.kv_heads;
  shape.head_dim = sizes_.head_dim;
  shape.stride = sizes_.qkv;
  shape.out_stride = sizes_.attention;
  shape.first_key = rows_.first_key.empty() ? nullptr : rows_.first_key.data();
  shape.key_mask = key_mask_;
  return shape;
}

template <typename T>
void CpuMinimind<T>::Begin(const at::Tensor& ids, const at::Tensor& document_ids,
                           const at::Tensor& key_mask) {
  buffers_.Resize(rows_.size);
  EnsureRope(rows_.longest);
  key_mask_ = key_mask.defined() ? static_cast<const uint8_t*>(key_mask.const_data_ptr()) : nullptr;
  if (Plain()) visible_ = VisiblePairs(ids.size(1), device_, document_ids, key_mask);
}

template <typename T>
void CpuMinimind<T>::ClearFilling(const at::Tensor& x) {
  const int64_t row = x.size(1) * static_cast<int64_t>(sizeof(T));
  std::memset(static_cast<char*>(x.mutable_data_ptr()) + rows_.tokens * row, 0,
              (rows_.size - rows_.tokens) * row);
}

// The heads of a fused projection as [B, T, heads, D].
at::Tensor Heads(const at::Tensor& x, int64_t batch, int64_t begin, int64_t heads, int64_t dim) {
  return x.view({batch, -1, x.size(1)})
      .narrow(2, begin * dim, heads * dim)
      .unflatten(2, {heads, dim});
}

template <typename T>
void CpuMinimind<T>::AttentionForward(LayerBuffers& layer) {
  const int64_t heads = sizes_.heads;
  const int64_t kv = sizes_.kv_heads;
  const int64_t dim = sizes_.head_dim;
  T* qkv = Data(layer.qkv);
  kernels_.rope(parallel_, rows_.size, rows_.positions.data(), heads + kv, dim, sizes_.qkv,
                rope_.cos.data(), rope_.sin.data(), 1.0f, qkv);
  if (Plain()) {
    Heads(layer.attention, rows_.batch, 0, heads, dim)
        .copy_(PlainAttention(Heads(layer.qkv, rows_.batch, 0, heads, dim),
                              Heads(layer.qkv, rows_.batch, heads, kv, dim),
                              Heads(layer.qkv, rows_.batch, heads + kv, kv, dim), visible_));
    return;
  }
  const AttentionShape<T> shape = Shape();
  kernels_.attention(parallel_, shape, qkv, qkv + heads * dim, qkv + (heads + kv) * dim,
                     Data(layer.attention), Floats(layer.log2_sum),
                     buffers_.Workspace(kernels_.attention_workspace(shape)));
  ClearFilling(layer.attention);
}

template <typename T>
void CpuMinimind<T>::Forward() {
  const int64_t n = rows_.size;
  const int64_t c = sizes_.hidden;
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  CpuBuffers& b = buffers_;
  kernels_.embed(parallel_, n, c, rows_.ids.data(), Floats(flat_parameters_),
                 Floats(b.layers[0].h1));
  const T* delta = nullptr;  // what the layer before adds to the residual stream
  const float* residual = Floats(b.layers[0].h1);
  for (int64_t i = 0; i < sizes_.layers; ++i) {
    LayerBuffers& layer = b.layers[i];
    const LayerOffsets& at = offsets_.layers[i];
    kernels_.add_norm(parallel_, n, c, residual, delta, Norm(at.norm1), eps, Floats(layer.h1),
                      Floats(layer.rstd1), Data(layer.x1));
    at::mm_out(layer.qkv, layer.x1, ProductWeights(at.qkv, sizes_.qkv, c).t());
    AttentionForward(layer);
    at::mm_out(b.delta, layer.attention, ProductWeights(at.o, c, sizes_.attention).t());
    kernels_.add_norm(parallel_, n, c, Floats(layer.h1), Data(b.delta), Norm(at.norm2), eps,
                      Floats(layer.h2), Floats(layer.rstd2), Data(layer.x2));
    at::mm_out(layer.gate_up, layer.x2, ProductWeights(at.mlp.gate_up, 2 * sizes_.inner, c).t());
    kernels_.swiglu(parallel_, n, sizes_.inner, Data(layer.gate_up), Data(b.inner));
    at::mm_out(b.delta, b.inner, ProductWeights(at.mlp.down, c, sizes_.inner).t());
    delta = Data(b.delta);
    residual = Floats(layer.h2);
  }
  kernels_.add_norm(parallel_, n, c, residual, delta, Norm(offsets_.norm), eps, Floats(b.h),
                    Floats(b.rstd), Data(b.x));
}

template <typename T>
at::Tensor CpuMinimind<T>::ListedLogits(at::Tensor* x) {
  CpuBuffers& b = buffers_;
  const int64_t c = sizes_.hidden;
  const auto listed = static_cast<int64_t>(rows_.logit_rows.size());
  *x = b.x;
  if (!rows_.all_logits) {
    *x = b.x_listed.narrow(0, 0, listed);
    for (int64_t i = 0; i < listed; ++i) {
      T* out = Data(*x) + i * c;
      const int64_t row = rows_.logit_rows[i];
      if (row < 0) {
        std::memset(static_cast<void*>(out), 0, c * sizeof(T));
      } else {
        std::memcpy(out, Data(b.x) + row * c, c * sizeof(T));
      }
    }
  }
  at::Tensor logits = b.logits.narrow(0, 0, listed);
  at::mm_out(logits, *x, ProductWeights(offsets_.head, sizes_.vocab, c).t());
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
void CpuMinimind<T>::NormBackward(const at::Tensor& dy, const at::Tensor& h, const at::Tensor& rstd,
                                  int64_t offset, bool accumulate, const at::Tensor& gradient) {
  T* cast = std::is_same_v<T, float> ? nullptr : Data(buffers_.dh_cast);
  kernels_.norm_backward(parallel_, rows_.size, sizes_.hidden, Data(dy), Floats(h), Floats(rstd),
                         Norm(offset), accumulate, Floats(buffers_.dh), cast,
                         Floats(gradient) + offset, Floats(buffers_.partials));
}

template <typename T>
double CpuMinimind<T>::LossAndHeadBackward(const at::Tensor& gradient, float loss_scale) {
  CpuBuffers& b = buffers_;
  const int64_t c = sizes_.hidden;
  const auto listed = static_cast<int64_t>(rows_.logit_rows.size());
  at::Tensor x;
  at::Tensor logits = ListedLogits(&x);
  kernels_.cross_entropy(parallel_, listed, sizes_.vocab, rows_.logit_targets.data(),
                         rows_.logit_mask.data(), loss_scale / static_cast<float>(rows_.counted),
                         Data(logits), Floats(b.row_loss));
  double loss = 0;
  for (int64_t i = 0; i < listed; ++i) loss += static_cast<double>(Floats(b.row_loss)[i]);
  at::Tensor dx = rows_.all_logits ? b.dx : b.dx_listed.narrow(0, 0, listed);
  at::mm_out(dx, logits, ProductWeights(offsets_.head, sizes_.vocab, c));
  WeightGradient(logits, x, gradient, offsets_.head);
  if (!rows_.all_logits) {
    std::memset(static_cast<void*>(Data(b.dx)), 0, rows_.size * c * sizeof(T));
    for (int64_t i = 0; i < rows_.counted; ++i) {
      std::memcpy(Data(b.dx) + rows_.logit_rows[i] * c, Data(dx) + i * c, c * sizeof(T));
    }
  }
  NormBackward(b.dx, b.h, b.rstd, offsets_.norm, /*accumulate=*/false, gradient);
  return loss / static_cast<double>(rows_.counted);
}

template <typename T>
void CpuMinimind<T>::AttentionBackward(LayerBuffers& layer) {
  const int64_t heads = sizes_.heads;
  const int64_t kv = sizes_.kv_heads;
  const int64_t dim = sizes_.head_dim;
  at::Tensor& dqkv = buffers_.dqkv;
  if (Plain()) {
    const auto [dq, dk, dv] = PlainAttentionBackward(
        Heads(layer.qkv, rows_.batch, 0, heads, dim), Heads(layer.qkv, rows_.batch, heads, kv, dim),
        Heads(layer.qkv, rows_.batch, heads + kv, kv, dim), visible_,
        Heads(buffers_.dattention, rows_.batch, 0, heads, dim));
    Heads(dqkv, rows_.batch, 0, heads, dim).copy_(dq);
    Heads(dqkv, rows_.batch, heads, kv, dim).copy_(dk);
    Heads(dqkv, rows_.batch, heads + kv, kv, dim).copy_(dv);
  } else {
    const AttentionShape<T> shape = Shape();
    const T* qkv = Data(layer.qkv);
    kernels_.attention_backward(parallel_, shape, qkv, qkv + heads * dim, qkv + (heads + kv) * dim,
                                Data(layer.attention), Floats(layer.log2_sum),
                                Data(buffers_.dattention), Data(dqkv), Data(dqkv) + heads * dim,
                                Data(dqkv) + (heads + kv) * dim,
                                buffers_.Workspace(kernels_.attention_backward_workspace(shape)));
    ClearFilling(dqkv);
  }
  kernels_.rope(parallel_, rows_.size, rows_.positions.data(), heads + kv, dim, sizes_.qkv,
                rope_.cos.data(), rope_.sin.data(), -1.0f, Data(dqkv));
}

template <typename T>
void CpuMinimind<T>::LayerBackward(int64_t index, const at::Tensor& gradient) {
  CpuBuffers& b = buffers_;
  LayerBuffers& layer = b.layers[index];
  const LayerOffsets& at = offsets_.layers[index];
  const int64_t c = sizes_.hidden;
  at::mm_out(b.dinner, b.dh_cast, ProductWeights(at.mlp.down, c, sizes_.inner));
  kernels_.swiglu_backward(parallel_, rows_.size, sizes_.inner, Data(b.dinner), Data(layer.gate_up),
                           Data(b.inner));
  WeightGradient(b.dh_cast, b.inner, gradient, at.mlp.down);
  at::mm_out(b.dx, layer.gate_up, ProductWeights(at.mlp.gate_up, 2 * sizes_.inner, c));
  WeightGradient(layer.gate_up, layer.x2, gradient, at.mlp.gate_up);
  NormBackward(b.dx, layer.h2, layer.rstd2, at.norm2, /*accumulate=*/true, gradient);

  at::mm_out(b.dattention, b.dh_cast, ProductWeights(at.o, c, sizes_.attention));
  WeightGradient(b.dh_cast, layer.attention, gradient, at.o);
  AttentionBackward(layer);
  at::mm_out(b.dx, b.dqkv, ProductWeights(at.qkv, sizes_.qkv, c));
  WeightGradient(b.dqkv, layer.x1, gradient, at.qkv);
  NormBackward(b.dx, layer.h1, layer.rstd1, at.norm1, /*accumulate=*/true, gradient);
}

TokenSource Source(const Microbatch& microbatch) {
  TokenSource source;
  source.batch = microbatch.input_ids.size(0);
  source.length = microbatch.input_ids.size(1);
  source.ids = microbatch.input_ids.const_data_ptr<int64_t>();
  source.targets = microbatch.targets.const_data_ptr<int64_t>();
  source.mask = static_cast<const uint8_t*>(microbatch.mask.const_data_ptr());
  if (microbatch.document_ids.defined()) {
    source.documents = microbatch.document_ids.const_data_ptr<int32_t>();
  }
  return source;
}

template <typename T>
absl::StatusOr<at::Tensor> CpuMinimind<T>::ForwardBackward(const Microbatch& microbatch,
                                                           const at::Tensor& gradient,
                                                           const PassOptions& pass) {
  absl::Status checked = CheckMicrobatch(*this, microbatch);
  if (checked.ok()) checked = CheckGradient(*this, gradient);
  if (!checked.ok()) return checked;
  const at::NoGradGuard no_grad;
  rows_.SetTraining(Source(microbatch), /*exact=*/Plain());
  if (rows_.counted == 0) {
    gradient.zero_();
    return at::zeros({}, at::kFloat);
  }
  Begin(microbatch.input_ids, microbatch.document_ids, {});
  Forward();
  const double loss = LossAndHeadBackward(gradient, pass.loss_scale);
  for (int64_t i = sizes_.layers - 1; i >= 0; --i) LayerBackward(i, gradient);
  if (!config_.tie_word_embeddings) {
    gradient.narrow(0, 0, sizes_.vocab * sizes_.hidden).zero_();
  }
  kernels_.embed_backward(parallel_, rows_.size, sizes_.hidden, rows_.ids.data(),
                          Floats(buffers_.dh), Floats(gradient));
  return at::scalar_tensor(loss, at::kFloat);
}

template <typename T>
absl::StatusOr<LossSum> CpuMinimind<T>::EvaluateLoss(const Microbatch& microbatch) {
  const absl::Status checked = CheckMicrobatch(*this, microbatch);
  if (!checked.ok()) return checked;
  const at::NoGradGuard no_grad;
  rows_.SetTraining(Source(microbatch), /*exact=*/Plain());
  LossSum out;
  out.targets = rows_.counted;
  if (rows_.counted == 0) return out;
  Begin(microbatch.input_ids, microbatch.document_ids, {});
  Forward();
  at::Tensor x;
  const at::Tensor logits = ListedLogits(&x);
  kernels_.cross_entropy(parallel_, logits.size(0), sizes_.vocab, rows_.logit_targets.data(),
                         rows_.logit_mask.data(), 1.0f, Data(logits), Floats(buffers_.row_loss));
  for (int64_t i = 0; i < logits.size(0); ++i) {
    out.sum += static_cast<double>(Floats(buffers_.row_loss)[i]);
  }
  return out;
}

template <typename T>
absl::StatusOr<at::Tensor> CpuMinimind<T>::Logits(const at::Tensor& input_ids,
                                                  const at::Tensor& padding_mask,
                                                  int64_t logits_to_keep) {
  const absl::Status checked =
      CheckLogitsArguments(config_, input_ids, padding_mask, logits_to_keep);
  if (!checked.ok()) return checked;
  const at::NoGradGuard no_grad;
  TokenSource source;
  source.batch = input_ids.size(0);
  source.length = input_ids.size(1);
  source.ids = input_ids.const_data_ptr<int64_t>();
  const int64_t keep = logits_to_keep == 0 ? source.length : logits_to_keep;
  rows_.SetEvaluation(source, keep);
  Begin(input_ids, {}, padding_mask);
  Forward();
  at::Tensor x;
  return ListedLogits(&x)
      .to(at::kFloat, /*non_blocking=*/false, /*copy=*/true)
      .view({source.batch, keep, sizes_.vocab});
}

}  // namespace

absl::Status CheckCpuSupport(const ModelConfig& config, const MinimindOptions& options) {
  const auto unimplemented = [](const char* what) {
    return absl::UnimplementedError(
        absl::StrCat("training with ", what, " is not supported on the CPU"));
  };
  if (config.use_moe) return unimplemented("use_moe: true");
  if (config.qk_norm) return unimplemented("qk_norm: true");
  if (config.dropout > 0) return unimplemented("dropout > 0");
  if (options.lora_rank > 0) return unimplemented("LoRA");
  return absl::OkStatus();
}

std::unique_ptr<Minimind> MakeCpuMinimind(const ModelConfig& config,
                                          const MinimindOptions& options) {
  if (options.compute == ComputeDtype::kFloat32) {
    return std::make_unique<CpuMinimind<float>>(config, options);
  }
  return std::make_unique<CpuMinimind<Bf16>>(config, options);
}

}  // namespace mindforge
