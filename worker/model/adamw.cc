#include "worker/model/adamw.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "worker/kernels/train_kernels.h"
#include "worker/model/device.h"
#ifdef MINDFORGE_CUDA
#include "worker/kernels/cuda/train_kernels_cuda.h"
#endif

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
  const c10::Device device = gradient.device();
  const c10::DeviceGuard guard(device);
  const int64_t size = gradient.numel();
  OptimizerKernelsOf(device).sum_squares(ParallelOf(device), size, gradient.const_data_ptr<float>(),
                                         block_sums_.mutable_data_ptr<double>());
#ifdef MINDFORGE_CUDA
  if (device.is_cuda()) return UpdateOnCuda(step, gradient, parameters, compute_parameters);
#endif
  AdamWResult result;
  double squares = 0;
  for (int64_t i = 0; i < block_sums_.numel(); ++i) {
    squares += block_sums_.const_data_ptr<double>()[i];
  }
  result.gradient_norm = std::sqrt(squares) * step.gradient_scale;
  if (!std::isfinite(result.gradient_norm)) return result;
  double scale = step.gradient_scale;
  if (options_.clip_norm > 0) {
    scale *= std::min(1.0, options_.clip_norm / (result.gradient_norm + 1e-6));
  }
  // The kernel's own recast is to bfloat16.
  const bool recast =
      compute_parameters.defined() && compute_parameters.scalar_type() == at::kBFloat16;
  OptimizerKernelsOf(device).adamw(
      ParallelOf(device), size, Scalars(options_, step, scale), gradient.const_data_ptr<float>(),
      parameters.mutable_data_ptr<float>(), first_moment_.mutable_data_ptr<float>(),
      second_moment_.mutable_data_ptr<float>(),
      recast ? static_cast<Bf16*>(compute_parameters.mutable_data_ptr()) : nullptr);
  if (compute_parameters.defined() && !recast) compute_parameters.copy_(parameters);
  result.applied = true;
  return result;
}

#ifdef MINDFORGE_CUDA
// The clip and whether to update at all are decided on the device, so that the update need not wait
// for the host; only the answer does.
AdamWResult AdamW::UpdateOnCuda(const AdamWStep& step, const at::Tensor& gradient,
                                const at::Tensor& parameters,
                                const at::Tensor& compute_parameters) {
  const Parallel parallel = ParallelOf(gradient.device());
  const int64_t size = gradient.numel();
  if (!verdict_.defined()) {
    verdict_ = at::empty({sizeof(CudaUpdateVerdict)}, gradient.options().dtype(at::kByte));
  }
  auto* verdict = static_cast<CudaUpdateVerdict*>(verdict_.mutable_data_ptr());
  CudaJudgeUpdate(parallel, size, block_sums_.const_data_ptr<double>(), step.gradient_scale,
                  options_.clip_norm, verdict);
  const auto update = [&]<typename T>(T* copy) {
    CudaAdamW<T>(parallel, size, Scalars(options_, step, /*gradient_scale=*/1), verdict,
                 gradient.const_data_ptr<float>(), parameters.mutable_data_ptr<float>(),
                 first_moment_.mutable_data_ptr<float>(), second_moment_.mutable_data_ptr<float>(),
                 copy);
  };
  if (!compute_parameters.defined()) {
    update(static_cast<Bf16*>(nullptr));
  } else if (compute_parameters.scalar_type() == at::kBFloat16) {
    update(static_cast<Bf16*>(compute_parameters.mutable_data_ptr()));
  } else {
    update(static_cast<Half*>(compute_parameters.mutable_data_ptr()));
  }
  CheckLaunches(gradient.device());
  const at::Tensor host = verdict_.cpu();
  CudaUpdateVerdict answer;
  std::memcpy(&answer, host.const_data_ptr(), sizeof(answer));
  return {.gradient_norm = answer.gradient_norm, .applied = answer.apply != 0};
}
#endif

}  // namespace mindforge
