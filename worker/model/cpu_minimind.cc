#include "worker/model/cpu_minimind.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cstring>

#include "worker/model/cpu_attention.h"
#include "worker/model/cpu_mlp.h"
#include "worker/model/cpu_pass.h"
#include "worker/model/microbatch.h"

namespace mindforge {
namespace {

template <typename T>
class CpuMinimind : public Minimind {
 public:
  CpuMinimind(const ModelConfig& config, const MinimindOptions& options)
      : Minimind(config, c10::Device(c10::kCPU), options), pass_(*this) {}

  absl::StatusOr<at::Tensor> ForwardBackward(const Microbatch& microbatch,
                                             const at::Tensor& gradient,
                                             const PassOptions& options) override;
  absl::StatusOr<LossSum> EvaluateLoss(const Microbatch& microbatch) override;
  absl::StatusOr<at::Tensor> Logits(const at::Tensor& input_ids, const at::Tensor& padding_mask,
                                    int64_t logits_to_keep) override;

 private:
  static T* Data(const at::Tensor& x) { return CpuPass<T>::Data(x); }

  void Forward();
  // Logits of the listed rows, and in `x` the normed activations they come from.
  at::Tensor ListedLogits(at::Tensor* x);
  // The sum of the listed rows' cross entropies; logits become their gradient times `scale`.
  double CrossEntropy(const at::Tensor& logits, float scale);
  void HeadBackward(const at::Tensor& x, const at::Tensor& logits);
  void Backward();
  void EmbeddingBackward();

  CpuPass<T> pass_;
};

template <typename T>
void CpuMinimind<T>::Forward() {
  const int64_t n = pass_.rows.size;
  const int64_t c = pass_.sizes.hidden;
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  CpuBuffers& b = pass_.buffers;
  float* embedded = Floats(b.layers[0].h1);
  pass_.kernels.embed(pass_.parallel, n, c, pass_.rows.ids.data(), pass_.Master(0), embedded);
  if (pass_.dropping()) {
    pass_.float_kernels.dropout(pass_.parallel, n, c, pass_.Places(),
                                pass_.Site(0, DropoutPlace::kEmbedding), 0, embedded, embedded);
  }
  const T* delta = nullptr;  // what the layer before adds to the residual stream
  const float* residual = embedded;
  for (int64_t i = 0; i < pass_.sizes.layers; ++i) {
    LayerBuffers& layer = b.layers[i];
    const LayerOffsets& at = pass_.offsets.layers[i];
    pass_.kernels.add_norm(pass_.parallel, n, c, residual, delta, pass_.Master(at.norm1), eps,
                           Floats(layer.h1), Floats(layer.rstd1), Data(layer.x1));
    AttentionForward(pass_, i);
    pass_.kernels.add_norm(pass_.parallel, n, c, Floats(layer.h1), Data(b.delta),
                           pass_.Master(at.norm2), eps, Floats(layer.h2), Floats(layer.rstd2),
                           Data(layer.x2));
    MlpForward(pass_, i);
    delta = Data(b.delta);
    residual = Floats(layer.h2);
  }
  pass_.kernels.add_norm(pass_.parallel, n, c, residual, delta, pass_.Master(pass_.offsets.norm),
                         eps, Floats(b.h), Floats(b.rstd), Data(b.x));
}

template <typename T>
at::Tensor CpuMinimind<T>::ListedLogits(at::Tensor* x) {
  CpuBuffers& b = pass_.buffers;
  const int64_t c = pass_.sizes.hidden;
  const auto listed = static_cast<int64_t>(pass_.rows.logit_rows.size());
  *x = b.x;
  if (!pass_.rows.all_logits) {
    *x = b.x_listed.narrow(0, 0, listed);
    for (int64_t i = 0; i < listed; ++i) {
      T* out = Data(*x) + i * c;
      const int64_t row = pass_.rows.logit_rows[i];
      if (row < 0) {
        std::memset(static_cast<void*>(out), 0, c * sizeof(T));
      } else {
        std::memcpy(out, Data(b.x) + row * c, c * sizeof(T));
      }
    }
  }
  at::Tensor logits = b.logits.narrow(0, 0, listed);
  pass_.Multiply(logits, *x, pass_.Weights(pass_.offsets.head, pass_.sizes.vocab, c).t());
  return logits;
}

template <typename T>
double CpuMinimind<T>::CrossEntropy(const at::Tensor& logits, float scale) {
  const float* losses = Floats(pass_.buffers.row_loss);
  pass_.kernels.cross_entropy(pass_.parallel, logits.size(0), pass_.sizes.vocab,
                              pass_.rows.logit_targets.data(), pass_.rows.logit_mask.data(), scale,
                              Data(logits), Floats(pass_.buffers.row_loss));
  double sum = 0;
  for (int64_t i = 0; i < logits.size(0); ++i) sum += static_cast<double>(losses[i]);
  return sum;
}

template <typename T>
void CpuMinimind<T>::HeadBackward(const at::Tensor& x, const at::Tensor& logits) {
  CpuBuffers& b = pass_.buffers;
  const TokenRows& rows = pass_.rows;
  const int64_t c = pass_.sizes.hidden;
  at::Tensor dx = rows.all_logits ? b.dx : b.dx_listed.narrow(0, 0, logits.size(0));
  pass_.Multiply(dx, logits, pass_.Weights(pass_.offsets.head, pass_.sizes.vocab, c));
  pass_.WeightGradient(logits, x, pass_.offsets.head);
  if (!rows.all_logits) {
    std::memset(static_cast<void*>(Data(b.dx)), 0, rows.size * c * sizeof(T));
    for (int64_t i = 0; i < rows.counted; ++i) {
      std::memcpy(Data(b.dx) + rows.logit_rows[i] * c, Data(dx) + i * c, c * sizeof(T));
    }
  }
  pass_.NormBackward(b.dx, b.h, b.rstd, pass_.offsets.norm, /*accumulate=*/false);
}

template <typename T>
void CpuMinimind<T>::Backward() {
  CpuBuffers& b = pass_.buffers;
  const bool frozen = trained_offset() > 0;
  for (int64_t i = pass_.sizes.layers - 1; i >= 0; --i) {
    LayerBuffers& layer = b.layers[i];
    const LayerOffsets& at = pass_.offsets.layers[i];
    // Below the first layer nothing is trained when the base is frozen.
    const bool needs_input = i > 0 || !frozen;
    MlpBackward(pass_, i);
    pass_.NormBackward(b.dx, layer.h2, layer.rstd2, at.norm2, /*accumulate=*/true);
    AttentionBackward(pass_, i, needs_input);
    if (!needs_input) return;
    pass_.NormBackward(b.dx, layer.h1, layer.rstd1, at.norm1, /*accumulate=*/true);
  }
  EmbeddingBackward();
}

template <typename T>
void CpuMinimind<T>::EmbeddingBackward() {
  const int64_t n = pass_.rows.size;
  const int64_t c = pass_.sizes.hidden;
  float* dh = Floats(pass_.buffers.dh);
  if (pass_.dropping()) {
    pass_.float_kernels.dropout(pass_.parallel, n, c, pass_.Places(),
                                pass_.Site(0, DropoutPlace::kEmbedding), 0, dh, dh);
  }
  if (!config_.tie_word_embeddings) {
    pass_.gradient.narrow(0, 0, pass_.sizes.vocab * c).zero_();
  }
  pass_.kernels.embed_backward(pass_.parallel, n, c, pass_.rows.ids.data(), dh, pass_.Gradient(0));
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
                                                           const PassOptions& options) {
  absl::Status checked = CheckMicrobatch(*this, microbatch);
  if (checked.ok()) checked = CheckGradient(*this, gradient);
  if (!checked.ok()) return checked;
  const at::NoGradGuard no_grad;
  // The balance loss counts tokens behind the last target too.
  const bool balanced = config_.use_moe && config_.aux_loss_alpha > 0;
  const bool rectangle = pass_.plain_attention();
  pass_.rows.SetTraining(Source(microbatch), /*trim=*/!rectangle && !balanced, /*fill=*/!rectangle);
  if (pass_.rows.counted == 0) {
    gradient.zero_();
    return at::zeros({}, at::kFloat);
  }
  pass_.gradient = gradient;
  pass_.Begin(/*is_training=*/true, options, microbatch.document_ids, {});
  Forward();
  at::Tensor x;
  const at::Tensor logits = ListedLogits(&x);
  const auto counted = static_cast<float>(pass_.rows.counted);
  const double sum = CrossEntropy(logits, options.loss_scale / counted);
  HeadBackward(x, logits);
  Backward();
  pass_.gradient.reset();
  return at::scalar_tensor(sum / static_cast<double>(pass_.rows.counted) + pass_.auxiliary_loss,
                           at::kFloat);
}

template <typename T>
absl::StatusOr<LossSum> CpuMinimind<T>::EvaluateLoss(const Microbatch& microbatch) {
  const absl::Status checked = CheckMicrobatch(*this, microbatch);
  if (!checked.ok()) return checked;
  const at::NoGradGuard no_grad;
  const bool rectangle = pass_.plain_attention();
  pass_.rows.SetTraining(Source(microbatch), /*trim=*/!rectangle, /*fill=*/!rectangle);
  LossSum out;
  out.targets = pass_.rows.counted;
  if (out.targets == 0) return out;
  pass_.Begin(/*is_training=*/false, {}, microbatch.document_ids, {});
  Forward();
  at::Tensor x;
  out.sum = CrossEntropy(ListedLogits(&x), 1.0f);
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
  pass_.rows.SetEvaluation(source, keep);
  pass_.Begin(/*is_training=*/false, {}, {}, padding_mask);
  Forward();
  for (int64_t i = 0; options_.routing != nullptr && i < pass_.sizes.layers; ++i) {
    if (pass_.sizes.experts == 0) break;
    options_.routing->push_back(at::tensor(pass_.buffers.layers[i].routing.chosen, at::kLong)
                                    .view({-1, pass_.sizes.top_k}));
  }
  at::Tensor x;
  return ListedLogits(&x)
      .to(at::kFloat, /*non_blocking=*/false, /*copy=*/true)
      .view({source.batch, keep, pass_.sizes.vocab});
}

}  // namespace

std::unique_ptr<Minimind> MakeCpuMinimind(const ModelConfig& config,
                                          const MinimindOptions& options) {
  if (options.compute == ComputeDtype::kFloat32) {
    return std::make_unique<CpuMinimind<float>>(config, options);
  }
  return std::make_unique<CpuMinimind<Bf16>>(config, options);
}

}  // namespace mindforge
