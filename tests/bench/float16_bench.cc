// How far float16's loss strays from float32's over a whole run: two trainings by real trainer
// processes, alike but for the dtype.
//
//   mindforge_bench_float16 [steps]        (environment: MINDFORGE_BIN, MINDFORGE_TEST_DATA)
//
// Prints one line; exit status 1 when a step's losses differ by more than 1%, or a step is missing.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "tests/fakes/trainer_harness.h"
#include "tests/train/training_job.h"
#include "worker/kernels/philox.h"

namespace mindforge {
namespace {

constexpr double kMostRelative = 0.01;
constexpr absl::Duration kPatience = absl::Minutes(30);

// Texts of words drawn with a slope, so that the loss falls and does not reach 0.
void WriteTexts(const std::string& path) {
  std::ofstream file(path);
  for (uint64_t line = 0; line < 4000; ++line) {
    file << "{\"text\": \"";
    for (uint64_t word = 0; word < 24; ++word) {
      const auto bits = Philox(1, line, word);
      const double share = UniformFloat(bits[0]) * UniformFloat(bits[1]);
      file << "w" << static_cast<int>(share * 300) << ' ';
    }
    file << "\"}\n";
  }
}

std::vector<v1::ProgressRecord> Train(v1::StartTraining start, const std::string& dtype,
                                      const TestFolder& folder) {
  start.mutable_spec()->mutable_training()->set_dtype(dtype);
  start.set_checkpoint_dir(folder / dtype);
  TrainerGroup group(start, 1);
  group.rank(0).Wait(kPatience);
  const TrainerReports reports = group.rank(0).reports();
  if (reports.failure) std::fprintf(stderr, "%s\n", reports.failure->message().c_str());
  return reports.steps;
}

int Compare(int64_t steps) {
  const TestFolder folder;
  WriteTexts(folder / "data.jsonl");
  v1::StartTraining start = TinyJob(folder);
  v1::JobSpec& spec = *start.mutable_spec();
  spec.mutable_model()->set_hidden_size(64);
  spec.mutable_data()->set_max_seq_len(48);
  spec.mutable_training()->set_microbatch_size(8);
  spec.mutable_training()->set_accumulation_steps(2);
  spec.mutable_training()->set_learning_rate(1e-3);
  spec.mutable_training()->set_max_steps(steps);
  const auto full = Train(start, "float32", folder), half = Train(start, "float16", folder);
  const auto expected = static_cast<size_t>(steps);
  if (full.size() != expected || half.size() != expected) {
    std::fprintf(stderr, "%zu and %zu of %zu steps\n", full.size(), half.size(), expected);
    return 1;
  }
  double most = 0, sum = 0;
  for (size_t i = 0; i < expected; ++i) {
    const double apart = std::abs(half[i].loss() - full[i].loss()) / full[i].loss();
    most = std::max(most, apart);
    sum += apart;
  }
  std::printf(
      "float16 against float32, %zu steps: loss %.4f and %.4f from %.4f; apart %.4f%% at most, "
      "%.4f%% on average; %lld steps skipped, loss scale %g at the end\n",
      expected, half.back().loss(), full.back().loss(), full.front().loss(), 100 * most,
      100 * sum / static_cast<double>(expected),
      static_cast<long long>(half.back().skipped_steps()), half.back().loss_scale());
  return most <= kMostRelative ? 0 : 1;
}

}  // namespace
}  // namespace mindforge

int main(int argc, char** argv) {
  const long steps = argc > 1 ? std::atol(argv[1]) : 500;
  if (steps < 1) {
    std::fprintf(stderr, "usage: mindforge_bench_float16 [steps]\n");
    return 2;
  }
  return mindforge::Compare(steps);
}
