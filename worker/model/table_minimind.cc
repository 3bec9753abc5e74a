#include "worker/model/table_minimind.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>

#include "worker/model/device.h"
#include "worker/model/layer.h"
#include "worker/model/microbatch.h"
#include "worker/model/pass.h"

namespace mindforge {
namespace {

template <typename T>
class TableMinimind : public Minimind {
 public:
  TableMinimind(const ModelConfig& config, c10::Device device, const MinimindOptions& options)
      : Minimind(config, device, options), pass_(*this) {}

  absl::StatusOr<at::Tensor> ForwardBackward(const Microbatch& microbatch,
                                             const at::Tensor& gradient,
                                             const PassOptions& options) override;
  absl::StatusOr<LossSum> EvaluateLoss(const Microbatch& microbatch) override;
  absl::StatusOr<at::Tensor> Logits(const at::Tensor& input_ids, const at::Tensor& padding_mask,
                                    int64_t logits_to_keep) override;

 private:
  static T* Data(const at::Tensor& x) { return Pass<T>::Data(x); }

  void Forward();
  // Logits of the listed rows, and in `x` the normed activations they come from.
  at::Tensor ListedLogits(at::Tensor* x);
  // The listed rows' cross entropies, float32 [rows, 1]; logits become their gradient times
  // `scale`.
  at::Tensor CrossEntropy(const at::Tensor& logits, float scale);
  void HeadBackward(const at::Tensor& x, const at::Tensor& logits);
  void Backward();
  void EmbeddingBackward();

  Pass<T> pass_;
};

template <typename T>
void TableMinimind<T>::Forward() {
  const int64_t n = pass_.rows.size;
  const int64_t c = pass_.sizes.hidden;
  Buffers& b = pass_.buffers;
  float* embedded = Floats(b.layers[0].h1);
  pass_.kernels.embed(pass_.parallel, n, c, pass_.arrays.ids, pass_.Master(0), embedded);
  if (pass_.dropping()) {
    pass_.float_kernels.dropout(pass_.parallel, n, c, pass_.Places(),
                                pass_.Site(0, DropoutPlace::kEmbedding), 0, embedded, embedded);
  }
  const T* delta = nullptr;  // what the layer before adds to the residual stream
  const float* residual = embedded;
  for (int64_t i = 0; i < pass_.sizes.layers; ++i) {
    LayerForward(pass_, i, residual, delta);
    delta = Data(b.delta);
    residual = Floats(b.layers[i].h2);
  }
  pass_.AddNorm(residual, delta, pass_.offsets.norm, b.h, b.rstd, b.x);
}

template <typename T>
at::Tensor TableMinimind<T>::ListedLogits(at::Tensor* x) {
  Buffers& b = pass_.buffers;
  const int64_t listed = pass_.rows.listed;
  *x = b.x;
  if (!pass_.rows.all_logits) {
    *x = b.delta.narrow(0, 0, listed);  // nothing is added any more
    pass_.GatherRows(pass_.arrays.logit_rows, b.x, *x);
  }
  at::Tensor logits = b.logits.narrow(0, 0, listed);
  const int64_t c = pass_.sizes.hidden;
  pass_.Multiply(logits, *x, pass_.Weights(pass_.offsets.head, pass_.sizes.vocab, c).t());
  return logits;
}

template <typename T>
at::Tensor TableMinimind<T>::CrossEntropy(const at::Tensor& logits, float scale) {
  const at::Tensor losses = pass_.buffers.row_loss.narrow(0, 0, logits.size(0));
  pass_.kernels.cross_entropy(pass_.parallel, logits.size(0), pass_.sizes.vocab,
                              pass_.arrays.logit_targets, pass_.arrays.logit_mask, scale,
                              Data(logits), Floats(losses));
  return losses;
}

template <typename T>
void TableMinimind<T>::HeadBackward(const at::Tensor& x, const at::Tensor& logits) {
  Buffers& b = pass_.buffers;
  const bool all = pass_.rows.all_logits;
  const at::Tensor weights =
      pass_.Weights(pass_.offsets.head, pass_.sizes.vocab, pass_.sizes.hidden);
  // The listed rows' are gathered from b.x, of which `x` is a copy then.
  const at::Tensor dx = all ? b.dx : b.x.narrow(0, 0, logits.size(0));
  pass_.Multiply(dx, logits, weights);
  pass_.WeightGradient(logits, x, pass_.offsets.head);
  if (!all) pass_.GatherRows(pass_.arrays.logit_places, dx, b.dx);
  pass_.NormBackward(b.dx, b.h, b.rstd, pass_.offsets.norm, /*accumulate=*/false);
}

template <typename T>
void TableMinimind<T>::Backward() {
  const bool frozen = trained_offset() > 0;
  for (int64_t i = pass_.sizes.layers - 1; i >= 0; --i) {
    // Below the first layer nothing is trained when the base is frozen.
    LayerBackward(pass_, i, /*needs_input=*/i > 0 || !frozen);
  }
  if (!frozen) EmbeddingBackward();
}

template <typename T>
void TableMinimind<T>::EmbeddingBackward() {
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
  const int64_t vocab = pass_.sizes.vocab;
  EmbedBackward<T>(device_, pass_.parallel, n, c, vocab, pass_.arrays.ids, dh, pass_.Gradient(0),
                   pass_.buffers.Workspace(EmbedBackwardWorkspace(device_, n, c, vocab)));
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
absl::StatusOr<at::Tensor> TableMinimind<T>::ForwardBackward(const Microbatch& microbatch,
                                                             const at::Tensor& gradient,
                                                             const PassOptions& options) {
  const absl::StatusOr<Microbatch> host = CheckedOnHost(*this, microbatch);
  if (!host.ok()) return host.status();
  const absl::Status checked = CheckGradient(*this, gradient);
  if (!checked.ok()) return checked;
  const at::NoGradGuard no_grad;
  const c10::DeviceGuard guard(device_);
  // The balance loss counts tokens behind the last target too.
  const bool balanced = config_.use_moe && config_.aux_loss_alpha > 0;
  const bool rectangle = pass_.plain_attention();
  pass_.rows.SetTraining(Source(*host), /*trim=*/!rectangle && !balanced, /*fill=*/!rectangle);
  if (pass_.rows.counted == 0) {
    gradient.zero_();
    return at::zeros({}, at::TensorOptions().device(device_).dtype(at::kFloat));
  }
  pass_.gradient = gradient;
  pass_.Begin(/*is_training=*/true, options, host->document_ids, {});
  Forward();
  at::Tensor x;
  const at::Tensor logits = ListedLogits(&x);
  const int64_t counted = pass_.rows.counted;
  const at::Tensor losses = CrossEntropy(logits, options.loss_scale / static_cast<float>(counted));
  const at::Tensor loss = MeanLoss(losses, counted, pass_.auxiliary_loss);
  HeadBackward(x, logits);
  Backward();
  pass_.gradient.reset();
  CheckLaunches(device_);
  return loss;
}

template <typename T>
absl::StatusOr<LossSum> TableMinimind<T>::EvaluateLoss(const Microbatch& microbatch) {
  const absl::StatusOr<Microbatch> host = CheckedOnHost(*this, microbatch);
  if (!host.ok()) return host.status();
  const at::NoGradGuard no_grad;
  const c10::DeviceGuard guard(device_);
  const bool rectangle = pass_.plain_attention();
  pass_.rows.SetTraining(Source(*host), /*trim=*/!rectangle, /*fill=*/!rectangle);
  LossSum out;
  out.targets = pass_.rows.counted;
  if (out.targets == 0) return out;
  pass_.Begin(/*is_training=*/false, {}, host->document_ids, {});
  Forward();
  at::Tensor x;
  out.sum = OrderedSum(CrossEntropy(ListedLogits(&x), 1.0f));
  CheckLaunches(device_);
  return out;
}

template <typename T>
absl::StatusOr<at::Tensor> TableMinimind<T>::Logits(const at::Tensor& input_ids,
                                                    const at::Tensor& padding_mask,
                                                    int64_t logits_to_keep) {
  const absl::Status checked =
      CheckLogitsArguments(config_, input_ids, padding_mask, logits_to_keep);
  if (!checked.ok()) return checked;
  const at::NoGradGuard no_grad;
  const c10::DeviceGuard guard(device_);
  const at::Tensor ids = input_ids.cpu();
  TokenSource source;
  source.batch = ids.size(0);
  source.length = ids.size(1);
  source.ids = ids.const_data_ptr<int64_t>();
  const int64_t keep = logits_to_keep == 0 ? source.length : logits_to_keep;
  pass_.rows.SetEvaluation(source, keep);
  pass_.Begin(/*is_training=*/false, {}, {}, padding_mask);
  Forward();
  for (int64_t i = 0; options_.routing != nullptr && i < pass_.sizes.layers; ++i) {
    if (pass_.sizes.experts == 0) break;
    options_.routing->push_back(at::tensor(pass_.buffers.layers[i].routing.slots.chosen, at::kLong)
                                    .view({-1, pass_.sizes.top_k}));
  }
  at::Tensor x;
  const at::Tensor logits = ListedLogits(&x);
  CheckLaunches(device_);
  return logits.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true)
      .view({source.batch, keep, pass_.sizes.vocab});
}

template <typename T>
std::unique_ptr<Minimind> Make(const ModelConfig& config, c10::Device device,
                               const MinimindOptions& options) {
  return std::make_unique<TableMinimind<T>>(config, device, options);
}

}  // namespace

bool HasColumn(c10::Device device, ComputeDtype compute) {
#ifdef MINDFORGE_CUDA
  if (device.is_cuda()) return true;
#endif
  return device.is_cpu() && compute != ComputeDtype::kFloat16;
}

std::unique_ptr<Minimind> MakeTableMinimind(const ModelConfig& config, c10::Device device,
                                            const MinimindOptions& options) {
  MakeDeterministic(device);
  if (options.compute == ComputeDtype::kFloat32) return Make<float>(config, device, options);
#ifdef MINDFORGE_CUDA
  if (options.compute == ComputeDtype::kFloat16) return Make<Half>(config, device, options);
#endif
  return Make<Bf16>(config, device, options);
}

}  // namespace mindforge
