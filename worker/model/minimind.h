// A MiniMind on one device, for training: parameters in one flat float32 buffer, a hand-written
// forward and backward that fills one flat float32 gradient. It does not know files, optimizers,
// microbatch order or other ranks. The surprising choice: no autograd engine. What
// runs, in which order and into which buffer is all in this room, so a step allocates nothing after
// the first one and gives the same bits for the same inputs and thread count on every run.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/model_config.h"

namespace mindforge {

// Arithmetic of the matrix products; weights, gradients, norms and losses are float32 in all.
enum class ComputeDtype { kFloat32, kBfloat16, kFloat16 };
c10::ScalarType ToScalarType(ComputeDtype compute);

// kFused: tiled attention that never holds all scores. kPlain: scores, float32 softmax, product.
enum class AttentionPath { kFused, kPlain };

struct MinimindOptions {
  ComputeDtype compute = ComputeDtype::kFloat32;
  AttentionPath attention = AttentionPath::kFused;
  // Not 0: every square projection carries an adapter of this rank, and only adapters are trained.
  int64_t lora_rank = 0;
  // Not null: Logits appends each MoE layer's choice of experts, int64 [B · T, k] on the CPU, so
  // that tests see them. Borrowed.
  std::vector<at::Tensor>* routing = nullptr;
};

// Where one parameter lies in the flat buffer.
struct ParameterView {
  std::string name;            // reference.md's name
  std::vector<int64_t> shape;  // [out, in] or [size]
  int64_t offset = 0;          // in elements
  int64_t size = 0;
};

// The parameters of `config` in canonical order: embedding; per layer q, k, v, o, with qk_norm the
// norms of q and k, input norm, post norm, then gate, up, down, or with MoE those of each expert,
// the router, those of each shared expert; final norm; an untied head. A tied head has no entry.
// With `lora_rank` adapters follow: per layer those of the square projections among q, k, v, o and
// the MLPs', each A [rank, in], then B [out, rank], named `{module}.lora.{A,B}.weight`. Projections
// that are multiplied together lie side by side, so their products are one.
std::vector<ParameterView> MinimindParameters(const ModelConfig& config, int64_t lora_rank = 0);

// Input of one forward and backward. Tensors are contiguous, on the model's device or on the CPU.
struct Microbatch {
  at::Tensor input_ids;     // int64 [B, T], 0 <= id < vocab_size
  at::Tensor targets;       // int64 [B, T], 0 <= id < vocab_size
  at::Tensor mask;          // uint8 or bool [B, T]; nonzero: the target counts
  at::Tensor document_ids;  // int32 [B, T], non-decreasing along a row; attention stays inside
                            // equal ids. Undefined: each row is one document.
};

// What one pass needs besides its input.
struct PassOptions {
  // Keys the dropout masks together with the layer; a function of (seed, step, microbatch) alone.
  uint64_t dropout_key = 0;
  // The gradient is that of loss · loss_scale; the loss returned is unscaled. For float16.
  float loss_scale = 1;
};

// Cross entropy of a microbatch without dropout and auxiliary losses.
struct LossSum {
  double sum = 0;  // over the unmasked targets, natural logarithm
  int64_t targets = 0;
};

// The model. Not thread-safe: one thread uses it at a time. Uses at::get_num_threads() threads on
// the CPU; errors of LibTorch (out of memory) come out as c10::Error.
class Minimind {
 public:
  // INVALID_ARGUMENT names every field of `config` that cannot be built, and lora_rank when no
  // projection is square; FAILED_PRECONDITION: the device is not there. Weights are zero until
  // InitializeWeights or a load into flat_parameters().
  static absl::StatusOr<std::unique_ptr<Minimind>> Create(const ModelConfig& config,
                                                          c10::Device device,
                                                          const MinimindOptions& options);
  virtual ~Minimind() = default;

  Minimind(const Minimind&) = delete;
  Minimind& operator=(const Minimind&) = delete;

  const ModelConfig& config() const { return config_; }
  const MinimindOptions& options() const { return options_; }
  c10::Device device() const { return device_; }

  // PyTorch's default distributions from a counter-based generator keyed by (seed, parameter
  // index): the same weights on every device. Adapters: A ~ N(0, 0.02²), B = 0, so that they change
  // nothing yet. Calls ParametersChanged.
  void InitializeWeights(uint64_t seed);

  int64_t parameter_count() const { return parameter_count_; }
  const std::vector<ParameterView>& parameters() const { return parameters_; }
  // The elements of the flat buffer that are trained: all, or only the adapters.
  int64_t trained_offset() const { return trained_offset_; }
  int64_t trained_count() const { return parameter_count_ - trained_offset_; }
  // The float32 master weights [P] on the device. Call ParametersChanged after writing to them.
  const at::Tensor& flat_parameters() const { return flat_parameters_; }
  // One parameter, a view into flat_parameters(). REQUIRES: `view` is one of parameters().
  at::Tensor Parameter(const ParameterView& view) const;
  // The copy [P] in the compute dtype that products read, same offsets; undefined for float32. An
  // optimizer that writes it together with the master weights need not call ParametersChanged.
  const at::Tensor& compute_parameters() const { return compute_parameters_; }
  // Re-derives what products read from the master weights; once per change of these.
  void ParametersChanged();

  // Forward and backward of one microbatch. Writes (does not add) the gradient of the loss, times
  // pass.loss_scale, into `gradient`, float32 [trained_count()] on the device, and returns the loss
  // as a float32 scalar tensor on the device: sum of cross entropies of unmasked targets / their
  // number, plus MoE's auxiliary losses. Without an unmasked target loss and gradient are zero. On
  // CUDA the call only enqueues, unless the model is a mixture, whose routing it waits for, or the
  // microbatch lies on the device; reading the loss waits.
  // INVALID_ARGUMENT: shapes or dtypes differ from Microbatch's, T > max_position_embeddings, or an
  // id outside the vocabulary (checked where the ids are on the CPU).
  virtual absl::StatusOr<at::Tensor> ForwardBackward(const Microbatch& microbatch,
                                                     const at::Tensor& gradient,
                                                     const PassOptions& pass = {}) = 0;

  // Forward only, without dropout and auxiliary losses; waits for the device. Summed in float64 in
  // the order of rows and positions. INVALID_ARGUMENT as ForwardBackward.
  virtual absl::StatusOr<LossSum> EvaluateLoss(const Microbatch& microbatch) = 0;

  // Logits of the last `logits_to_keep` positions (0: all), float32 [B, n, vocab_size], for
  // evaluation. `padding_mask` uint8 or bool [B, T]: zero blocks a key; undefined: none.
  virtual absl::StatusOr<at::Tensor> Logits(const at::Tensor& input_ids,
                                            const at::Tensor& padding_mask = {},
                                            int64_t logits_to_keep = 0) = 0;

 protected:
  Minimind(const ModelConfig& config, c10::Device device, const MinimindOptions& options);

  // Weights that products read: compute_parameters() or flat_parameters().
  at::Tensor ProductWeights(int64_t offset, int64_t rows, int64_t columns) const;

  const ModelConfig config_;
  const c10::Device device_;
  const MinimindOptions options_;
  const std::vector<ParameterView> parameters_;
  const int64_t parameter_count_;
  const int64_t trained_offset_;
  at::Tensor flat_parameters_;
  at::Tensor compute_parameters_;
};

}  // namespace mindforge
