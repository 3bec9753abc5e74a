// Decoding speed of the inference engine on the CPU: prompts are prefilled, then the time between
// finished decode steps is taken with every row live, sampler and sinks included. Prints one JSON
// line per batch size. tests/bench/decode.sh runs it beside its peer.
//
//   mindforge_bench_decode --model DIR [--dtype bf16|f32] [--threads N] [--prompt N] [--steps N]
//                          [--batch N]...
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "common/mutex.h"
#include "worker/infer/engine.h"
#include "worker/infer/runner_factory.h"

namespace mindforge {
namespace {

using Clock = std::chrono::steady_clock;

// Prefills fast, so that all rows decode together for most of the steps.
constexpr int64_t kPrefillTokens = 512;

struct BenchOptions {
  std::string model;
  std::string dtype = "bf16";
  int64_t threads = 2;
  int64_t prompt = 128;
  int64_t steps = 64;
  std::vector<int64_t> batches = {1, 32};
};

// Notes when each step that decoded all rows and prefilled nothing had finished.
class StepTimes : public EngineObserver {
 public:
  explicit StepTimes(int64_t rows) : rows_(rows) {}
  void OnStep(int64_t rows, int64_t prefill_tokens, absl::Duration) override {
    if (rows == rows_ && prefill_tokens == 0) times_.push_back(Clock::now());
  }
  // Seconds between consecutive ones, ascending. After the engine has stopped.
  std::vector<double> Gaps() const {
    std::vector<double> gaps;
    for (size_t i = 1; i < times_.size(); ++i) {
      gaps.push_back(std::chrono::duration<double>(times_[i] - times_[i - 1]).count());
    }
    std::sort(gaps.begin(), gaps.end());
    return gaps;
  }

 private:
  const int64_t rows_;
  std::vector<Clock::time_point> times_;
};

// Remembers a request's tokens.
class TokenSink : public GenerationSink {
 public:
  void OnStarted(const StartedInfo&) override {}
  bool OnToken(const TokenInfo& token) override {
    tokens.push_back(token.token);
    return true;
  }
  void OnFinished(const FinishedInfo&) override {}
  std::vector<int32_t> tokens;  // read after the engine has stopped
};

// Row b of the batch: the peer makes the same ones.
std::vector<int32_t> Prompt(int64_t row, int64_t length, int64_t vocab) {
  std::vector<int32_t> ids(length);
  for (int64_t i = 0; i < length; ++i) {
    ids[i] = static_cast<int32_t>((row * 7919 + i * 104729 + 17) % vocab);
  }
  return ids;
}

absl::Status Measure(const BenchOptions& options, int64_t batch) {
  auto runner = MakeModelRunner(
      {.model_folder = options.model,
       .dtype = options.dtype == "f32" ? RunnerDtype::kFloat32 : RunnerDtype::kBfloat16,
       .slots = batch,
       .max_context = options.prompt + options.steps + 8,
       .max_batch_tokens = batch + kPrefillTokens,
       .threads = options.threads});
  if (!runner.ok()) return runner.status();
  const int64_t vocab = (*runner)->vocab_size();
  StepTimes times(batch);
  std::vector<std::shared_ptr<TokenSink>> sinks;
  {
    Engine engine(std::move(*runner), "bench",
                  {.max_queue = batch, .prefill_chunk_tokens = kPrefillTokens}, &times);
    for (int64_t row = 0; row < batch; ++row) {
      GenerationRequest request;
      request.prompt = Prompt(row, options.prompt, vocab);
      request.sampling.temperature = 0;
      request.stopping.max_new_tokens = options.steps;
      sinks.push_back(std::make_shared<TokenSink>());
      if (auto handle = engine.Submit(request, sinks.back()); !handle.ok()) return handle.status();
    }
    if (absl::Status status = engine.Drain(absl::Minutes(2)); !status.ok()) return status;
  }
  const std::vector<double> gaps = times.Gaps();
  if (gaps.size() < 8) return absl::InternalError("too few steps with every row live");
  const double median = gaps[gaps.size() / 2];
  std::printf(
      "{\"engine\": \"mindforge\", \"dtype\": \"%s\", \"batch\": %ld, \"steps\": %zu,"
      " \"median_step_ms\": %.4f, \"tokens_per_second\": %.1f, \"greedy\": [",
      options.dtype.c_str(), batch, gaps.size(), median * 1e3, static_cast<double>(batch) / median);
  for (int i = 0; i < 8; ++i) std::printf("%s%d", i > 0 ? ", " : "", sinks[0]->tokens[i]);
  std::printf("]}\n");
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  BenchOptions options;
  CLI::App app("Decoding speed of the inference engine on the CPU");
  app.add_option("--model", options.model, "a Hugging Face folder")->required();
  app.add_option("--dtype", options.dtype)->check(CLI::IsMember({"bf16", "f32"}));
  app.add_option("--threads", options.threads)->check(CLI::PositiveNumber);
  app.add_option("--prompt", options.prompt)->check(CLI::PositiveNumber);
  app.add_option("--steps", options.steps)->check(CLI::Range(16, 100000));
  app.add_option("--batch", options.batches)->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  for (int64_t batch : options.batches) {
    if (absl::Status status = Measure(options, batch); !status.ok()) {
      std::fprintf(stderr, "mindforge_bench_decode: %s\n", status.ToString().c_str());
      return 1;
    }
  }
  return 0;
}

}  // namespace
}  // namespace mindforge

int main(int argc, char** argv) { return mindforge::Main(argc, argv); }
