// AdamW over a model's flat buffers, with the gradient-norm clip and the 16-bit recast in the
// same step. It does not know what the parameters are, nor how the gradient came to be. The norm is
// summed in blocks of fixed size and order, so its bits depend on the gradient alone.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>

namespace mindforge {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.01;
  double clip_norm = 1.0;  // 0: no clip
};

// One optimizer update's arguments.
struct AdamWStep {
  int64_t step = 1;             // 1-based; decides the bias corrections
  double learning_rate = 0;     // see schedule.h
  double gradient_scale = 1.0;  // the gradient is `gradient * gradient_scale`, for example 1/A
};

// What an update saw.
struct AdamWResult {
  double gradient_norm = 0;  // global L2 norm after gradient_scale, before the clip
  bool applied = false;      // false: the norm was not finite, nothing was changed
};

// Owns the two moments, float32 [P] on the device, zero at first. Not thread-safe.
class AdamW {
 public:
  AdamW(int64_t parameter_count, c10::Device device, const AdamWOptions& options);

  const at::Tensor& first_moment() const { return first_moment_; }
  const at::Tensor& second_moment() const { return second_moment_; }

  // Updates `parameters` (float32 [P]) and, when defined, `compute_parameters` (bfloat16 or float16
  // [P], see Minimind) from `gradient` (float32 [P], left as it was). All may be contiguous parts
  // of larger buffers, of a model of which only a range is trained. On CUDA waits for the device.
  AdamWResult Step(const AdamWStep& step, const at::Tensor& gradient, const at::Tensor& parameters,
                   const at::Tensor& compute_parameters);

 private:
  AdamWResult UpdateOnCuda(const AdamWStep& step, const at::Tensor& gradient,
                           const at::Tensor& parameters, const at::Tensor& compute_parameters);

  const AdamWOptions options_;
  at::Tensor first_moment_;
  at::Tensor second_moment_;
  at::Tensor block_sums_;  // float64, partial sums of squares of the norm
  at::Tensor verdict_;     // on CUDA: whether and how to update
};

}  // namespace mindforge
