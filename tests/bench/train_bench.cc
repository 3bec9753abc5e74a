// Tokens per second of one training step: forward, backward, clip and AdamW of a 26 M
// model, one microbatch a step, as tests/bench/train_peer.py does it; or of MoE, 640 wide, 145 M;
// or of MoE, 512 wide, 95 M, as tests/bench/train_moe_peer.py does it.
//
//   mindforge_bench_train float32|bfloat16|float16 [steps] [batch] [length] [cpu|cuda]
//                         [dense|moe|moe_small] [table|aten] [kernels]
//
// aten: the model composed of LibTorch's operators. kernels: afterwards, on a GPU, where one step's
// time goes, kernel by kernel.
#include <ATen/Functions.h>
#include <ATen/Parallel.h>

#ifdef MINDFORGE_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#endif

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/bench/kernel_times.h"
#include "worker/model/adamw.h"
#include "worker/model/aten_minimind.h"
#include "worker/model/minimind.h"
#include "worker/model/schedule.h"

namespace mindforge {
namespace {

using Clock = std::chrono::steady_clock;

struct Run {
  ComputeDtype compute = ComputeDtype::kFloat32;
  int64_t steps = 3, batch = 4, length = 512;
  c10::Device device = c10::Device(c10::kCPU);
  bool aten = false;
  bool kernels = false;
};

absl::StatusOr<std::unique_ptr<Minimind>> Make(const ModelConfig& config, const Run& run) {
  const MinimindOptions options{run.compute, AttentionPath::kFused};
  if (run.aten) return MakeAtenMinimind(config, run.device, options);
  return Minimind::Create(config, run.device, options);
}

void PrintMemory(c10::Device device) {
#ifdef MINDFORGE_CUDA
  if (device.is_cuda()) {
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device.index());
    std::fprintf(stderr, "at most %.2f GiB of the device allocated\n",
                 static_cast<double>(stats.allocated_bytes[0].peak) / (1 << 30));
  }
#endif
  (void)device;
}

int Bench(const ModelConfig& config, const Run& run) {
  auto created = Make(config, run);
  if (!created.ok()) {
    std::fprintf(stderr, "%s\n", std::string(created.status().message()).c_str());
    return 1;
  }
  const std::unique_ptr<Minimind> model = std::move(created).value();
  model->InitializeWeights(1);
  AdamW optimizer(model->parameter_count(), model->device(), {});
  const at::Tensor gradient = at::empty({model->parameter_count()}, run.device);
  const at::Tensor tokens = at::randint(config.vocab_size, {run.batch, run.length + 1}, at::kLong);
  Microbatch microbatch;
  microbatch.input_ids = tokens.narrow(1, 0, run.length).contiguous();
  microbatch.targets = tokens.narrow(1, 1, run.length).contiguous();
  microbatch.mask = at::ones({run.batch, run.length}, at::kByte);
  double loss = 0;
  const auto step = [&](int64_t s) {
    const at::Tensor result = model->ForwardBackward(microbatch, gradient).value();
    const AdamWStep update{s, CosineLearningRate(5e-4, s, run.steps + 1), 1.0};
    optimizer.Step(update, gradient, model->flat_parameters(), model->compute_parameters());
    loss = result.item<double>();
  };
  for (int64_t s = 1; s <= run.steps + 1; ++s) {  // the first step warms up
    const auto begin = Clock::now();
    step(s);
    const std::chrono::duration<double> took = Clock::now() - begin;
    if (s > 1) std::printf("%.1f\n", static_cast<double>(run.batch * run.length) / took.count());
  }
  std::fprintf(stderr, "loss %.4f, %d threads\n", loss, at::get_num_threads());
  PrintMemory(run.device);
  if (run.kernels) bench::PrintKernelTimes([&] { step(run.steps + 1); });
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
                 " [cpu|cuda] [dense|moe|moe_small] [table|aten] [kernels]\n");
    return 2;
  }
  const auto number = [&](int i, int64_t fallback) {
    return argc > i ? std::strtoll(argv[i], nullptr, 10) : fallback;
  };
  mindforge::ModelConfig config;  // the defaults are the 26 M model
  config.use_moe = kind != "dense";
  if (kind == "moe") config.hidden_size = 640;
  mindforge::Run run;
  run.compute = dtype->second;
  run.steps = number(2, 3);
  run.batch = number(3, 4);
  run.length = number(4, 512);
  const std::string device = argc > 5 ? argv[5] : "cpu";
  run.device = c10::Device(device == "cuda" ? "cuda:0" : device);
  run.aten = argc > 7 && std::string(argv[7]) == "aten";
  run.kernels = argc > 8 && std::string(argv[8]) == "kernels";
  return mindforge::Bench(config, run);
}
