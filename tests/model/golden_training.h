// Six optimizer steps against those that the Python reference took; for tests alone.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "tests/model/golden.h"
#include "worker/model/adamw.h"
#include "worker/model/minimind.h"
#include "worker/model/schedule.h"

namespace mindforge::golden {

inline Microbatch MicrobatchOf(const at::Tensor& rows, int64_t pad) {  // int64 [B, L + 1]
  Microbatch m;
  m.input_ids = rows.narrow(1, 0, rows.size(1) - 1).contiguous();
  m.targets = rows.narrow(1, 1, rows.size(1) - 1).contiguous();
  m.mask = (m.targets != pad).to(at::kByte);
  return m;
}

// Largest differences of the final weights: what 99.9% of them keep within, and all.
inline void ExpectFinalWeights(const std::map<std::string, at::Tensor>& tensors,
                               const Minimind& model) {
  int64_t far = 0;
  for (const ParameterView& view : model.parameters()) {
    const at::Tensor difference =
        (model.Parameter(view).cpu() - tensors.at("final." + view.name)).abs();
    EXPECT_LT(difference.max().item<double>(), 2e-4) << view.name;
    far += (difference > 1e-6).sum().item<int64_t>();
  }
  EXPECT_LT(static_cast<double>(far), 0.001 * static_cast<double>(model.parameter_count()));
}

// `name` is one of the train_ entries; the model has its configuration.
inline void ExpectTraining(const std::string& name, Minimind& model) {
  const auto tensors = Tensors(name);
  const auto index = Index().at(name);
  const int64_t accumulation = index.at("accumulation");
  const int64_t microbatch = index.at("microbatch");
  const double base = index.at("learning_rate");
  const int64_t steps = tensors.at("losses").numel();
  Load(tensors, "weights.", model);
  AdamW optimizer(model.parameter_count(), model.device(), {});
  const auto options = at::TensorOptions().device(model.device());
  at::Tensor sum = at::empty({model.parameter_count()}, options);
  const at::Tensor gradient = at::empty({model.parameter_count()}, options);
  for (int64_t s = 0; s < steps; ++s) {
    double loss = 0;
    sum.zero_();
    for (int64_t i = 0; i < accumulation; ++i) {
      const int64_t at = (s * accumulation + i) * microbatch;
      const Microbatch m =
          MicrobatchOf(tensors.at("tokens").narrow(0, at, microbatch), index.at("pad_token_id"));
      loss += model.ForwardBackward(m, gradient).value().item<double>() /
              static_cast<double>(accumulation);
      sum.add_(gradient);
    }
    AdamWStep step;
    step.step = s + 1;
    step.learning_rate = CosineLearningRate(base, s + 1, steps);
    step.gradient_scale = 1.0 / static_cast<double>(accumulation);
    EXPECT_NEAR(step.learning_rate, tensors.at("lrs")[s].item<double>(), 1e-12);
    const AdamWResult result =
        optimizer.Step(step, sum, model.flat_parameters(), model.compute_parameters());
    const double expected_loss = tensors.at("losses")[s].item<double>();
    const double expected_norm = tensors.at("grad_norms")[s].item<double>();
    EXPECT_NEAR(loss, expected_loss, 1e-5 * expected_loss) << "step " << s;
    EXPECT_NEAR(result.gradient_norm, expected_norm, 1e-5 * expected_norm) << "step " << s;
  }
  ExpectFinalWeights(tensors, model);
}

}  // namespace mindforge::golden
