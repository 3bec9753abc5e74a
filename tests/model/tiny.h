// Small models and microbatches that the model's tests share.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "worker/model/minimind.h"

namespace mindforge::tiny {

inline std::unique_ptr<Minimind> Make(const ModelConfig& config, MinimindOptions options = {}) {
  auto model = Minimind::Create(config, c10::Device(c10::kCPU), options);
  EXPECT_TRUE(model.ok()) << model.status();
  return std::move(model).value();
}

inline ModelConfig Config() {
  ModelConfig config;
  config.hidden_size = 48;
  config.num_hidden_layers = 2;
  config.vocab_size = 100;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.intermediate_size = 72;
  config.max_position_embeddings = 256;
  return config;
}

inline Microbatch RandomMicrobatch(const ModelConfig& config, int64_t batch, int64_t length,
                                   uint64_t seed) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  Microbatch m;
  m.input_ids = at::randint(0, config.vocab_size, {batch, length}, generator, at::kLong);
  m.targets = at::randint(0, config.vocab_size, {batch, length}, generator, at::kLong);
  m.mask = at::ones({batch, length}, at::kByte);
  return m;
}

struct LossAndGradient {
  double loss;
  at::Tensor gradient;
};

inline LossAndGradient Compute(Minimind& model, const Microbatch& microbatch,
                               const PassOptions& pass = {}) {
  LossAndGradient out;
  out.gradient = at::full({model.trained_count()}, 7.0f);
  auto loss = model.ForwardBackward(microbatch, out.gradient, pass);
  EXPECT_TRUE(loss.ok()) << loss.status();
  out.loss = loss->item<double>();
  return out;
}

}  // namespace mindforge::tiny
