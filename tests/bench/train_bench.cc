// Tokens per second of one training step: forward, backward, clip and AdamW of a 26 M
// model, one microbatch a step, as tests/bench/train_peer.py does it; or of MoE, 640 wide, 145 M;
// or of MoE, 512 wide, 95 M, as tests/bench/train_moe_peer.py does it.
//
//   mindforge_bench_train float32|bfloat16|float16 [steps] [batch] [length] [cpu|cuda]
//                         [dense|moe|moe_small]
#include <ATen/Functions.h>
#include <ATen/Parallel.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "worker/model/adamw.h"
#include "worker/model/minimind.h"
#include "worker/model/schedule.h"

namespace mindforge {
namespace {

using Clock = std::chrono::steady_clock;

int Bench(const ModelConfig& config, ComputeDtype compute, int64_t steps, int64_t batch,
          int64_t length, c10::Device device) {
  auto created = Minimind::Create(config, device, {compute, AttentionPath::kFused});
  if (!created.ok()) {
    std::fprintf(stderr, "%s\n", std::string(created.status().message()).c_str());
    return 1;
  }
  const std::unique_ptr<Minimind> model = std::move(created).value();
  model->InitializeWeights(1);
  AdamW optimizer(model->parameter_count(), model->device(), {});
  const at::Tensor gradient = at::empty({model->parameter_count()}, device);
  const at::Tensor tokens = at::randint(config.vocab_size, {batch, length + 1}, at::kLong);
  Microbatch microbatch;
  microbatch.input_ids = tokens.narrow(1, 0, length).contiguous();
  microbatch.targets = tokens.narrow(1, 1, length).contiguous();
  microbatch.mask = at::ones({batch, length}, at::kByte);
  double loss = 0;
  for (int64_t s = 1; s <= steps + 1; ++s) {  // the first step warms up
    const auto begin = Clock::now();
    const auto result = model->ForwardBackward(microbatch, gradient);
    if (!result.ok()) {
      std::fprintf(stderr, "%s\n", std::string(result.status().message()).c_str());
      return 1;
    }
    loss = result->item<double>();
    const AdamWStep step{s, CosineLearningRate(5e-4, s, steps + 1), 1.0};
    optimizer.Step(step, gradient, model->flat_parameters(), model->compute_parameters());
    const std::chrono::duration<double> took = Clock::now() - begin;
    if (s > 1) std::printf("%.1f\n", static_cast<double>(batch * length) / took.count());
  }
  std::fprintf(stderr, "loss %.4f, %d threads\n", loss, at::get_num_threads());
  return 0;
}

}  // namespace
}  // namespace mindforge

int main(int argc, char** argv) {
  using mindforge::ComputeDtype;
  const std::map<std::string, ComputeDtype> dtypes = {{"float32", ComputeDtype::kFloat32},
                                                      {"bfloat16", ComputeDtype::kBfloat16},
                                                      {"float16", ComputeDtype::kFloat16}};
  const auto dtype = dtypes.find(argc > 1 ? argv[1] : "float32");
  const std::string kind = argc > 6 ? argv[6] : "dense";
  if (dtype == dtypes.end() || (kind != "dense" && kind != "moe" && kind != "moe_small")) {
    std::fprintf(stderr,
                 "usage: mindforge_bench_train float32|bfloat16|float16 [steps] [batch] [length]"
                 " [cpu|cuda] [dense|moe|moe_small]\n");
    return 2;
  }
  const auto number = [&](int i, int64_t fallback) {
    return argc > i ? std::strtoll(argv[i], nullptr, 10) : fallback;
  };
  mindforge::ModelConfig config;  // the defaults are the 26 M model
  config.use_moe = kind != "dense";
  if (kind == "moe") config.hidden_size = 640;
  return mindforge::Bench(config, dtype->second, number(2, 3), number(3, 4), number(4, 512),
                          c10::Device(argc > 5 ? argv[5] : "cpu"));
}
