#include "worker/model/adamw.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <cmath>

#include "worker/kernels/train_kernels.h"
#include "worker/model/torch_parallel.h"

namespace mindforge {
namespace {

AdamWScalars Scalars(const AdamWOptions& options, const AdamWStep& step, double gradient_scale) {
  const double bias1 = 1 - std::pow(options.beta1, static_cast<double>(step.step));
  const double bias2 = 1 - std::pow(options.beta2, static_cast<double>(step.step));
  AdamWScalars s;
  s.gradient_scale = static_cast<float>(gradient_scale);
  s.decay = static_cast<float>(1 - step.learning_rate * options.weight_decay);
  s.one_minus_beta1 = static_cast<float>(1 - options.beta1);
  s.beta2 = static_cast<float>(options.beta2);
  s.one_minus_beta2 = static_cast<float>(1 - options.beta2);
  s.step_size = static_cast<float>(step.learning_rate / bias1);
  s.inverse_bias2 = static_cast<float>(1 / std::sqrt(bias2));
  s.epsilon = static_cast<float>(options.epsilon);
  return s;
}

// The same update from LibTorch's operators, for devices without kernels of ours.
void ComposedUpdate(const AdamWScalars& s, const at::Tensor& gradient, const at::Tensor& parameters,
                    const at::Tensor& m, const at::Tensor& v, const at::Tensor& copy) {
  const at::Tensor g = gradient * s.gradient_scale;
  m.lerp_(g, s.one_minus_beta1);
  v.mul_(s.beta2).addcmul_(g, g, s.one_minus_beta2);
  const at::Tensor denominator = v.sqrt().mul_(s.inverse_bias2).add_(s.epsilon);
  parameters.mul_(s.decay).addcdiv_(m, denominator, -s.step_size);
  if (copy.defined()) copy.copy_(parameters);
}

}  // namespace

AdamW::AdamW(int64_t parameter_count, c10::Device device, const AdamWOptions& options)
    : options_(options) {
  const auto floats = at::TensorOptions().device(device).dtype(at::kFloat);
  first_moment_ = at::zeros({parameter_count}, floats);
  second_moment_ = at::zeros({parameter_count}, floats);
  block_sums_ =
      at::zeros({(parameter_count + kSquareBlock - 1) / kSquareBlock}, floats.dtype(at::kDouble));
}

AdamWResult AdamW::Step(const AdamWStep& step, const at::Tensor& gradient,
                        const at::Tensor& parameters, const at::Tensor& compute_parameters) {
  const at::NoGradGuard no_grad;
  const bool cpu = gradient.is_cpu();
  const OptimizerKernels& kernels = GetOptimizerKernels(DetectCpuIsa());
  const int64_t size = gradient.numel();
  double squares = 0;
  if (cpu) {
    auto* sums = block_sums_.mutable_data_ptr<double>();
    kernels.sum_squares(TorchParallel(), size, gradient.const_data_ptr<float>(), sums);
    for (int64_t i = 0; i < block_sums_.numel(); ++i) squares += sums[i];
  } else {
    // Blocks first, then the blocks' float64 sums: a fixed tree, whatever the launch.
    const int64_t whole = size / kSquareBlock * kSquareBlock;
    squares = gradient.narrow(0, 0, whole)
                  .view({-1, kSquareBlock})
                  .square()
                  .sum(1, /*keepdim=*/false, at::kDouble)
                  .sum()
                  .item<double>() +
              gradient.narrow(0, whole, size - whole).to(at::kDouble).square().sum().item<double>();
  }
  AdamWResult result;
  result.gradient_norm = std::sqrt(squares) * step.gradient_scale;
  if (!std::isfinite(result.gradient_norm)) return result;
  double scale = step.gradient_scale;
  if (options_.clip_norm > 0) {
    scale *= std::min(1.0, options_.clip_norm / (result.gradient_norm + 1e-6));
  }
  const AdamWScalars scalars = Scalars(options_, step, scale);
  if (cpu) {
    // The kernel's own recast is to bfloat16.
    const bool recast =
        compute_parameters.defined() && compute_parameters.scalar_type() == at::kBFloat16;
    Bf16* copy = recast ? static_cast<Bf16*>(compute_parameters.mutable_data_ptr()) : nullptr;
    kernels.adamw(TorchParallel(), size, scalars, gradient.const_data_ptr<float>(),
                  parameters.mutable_data_ptr<float>(), first_moment_.mutable_data_ptr<float>(),
                  second_moment_.mutable_data_ptr<float>(), copy);
    if (compute_parameters.defined() && !recast) compute_parameters.copy_(parameters);
  } else {
    ComposedUpdate(scalars, gradient, parameters, first_moment_, second_moment_,
                   compute_parameters);
  }
  result.applied = true;
  return result;
}

}  // namespace mindforge
