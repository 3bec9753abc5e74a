// Logits of a model folder for one sequence, by the inference worker's CPU engine in float32:
//
//   folder_logits FOLDER ID,ID,... OUT
//
// OUT gets [length, vocabulary] as raw float32.
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "worker/infer/runner_factory.h"

namespace mindforge {
namespace {

absl::Status Run(const std::string& folder, const std::string& list, const std::string& out) {
  std::vector<int32_t> ids;
  std::istringstream words(list);
  for (std::string word; std::getline(words, word, ',');) ids.push_back(std::stoi(word));
  RunnerOptions options;
  options.model_folder = folder;
  options.slots = 1;
  options.max_context = static_cast<int64_t>(ids.size());
  options.max_batch_tokens = static_cast<int64_t>(ids.size());
  absl::StatusOr<std::unique_ptr<ModelRunner>> runner = MakeModelRunner(options);
  if (!runner.ok()) return runner.status();
  std::vector<float> logits(ids.size() * static_cast<size_t>((*runner)->vocab_size()));
  StepBatch batch;
  batch.rows.push_back({0, 0, ids, static_cast<int64_t>(ids.size())});
  const absl::Status status = (*runner)->Forward(batch, logits.data());
  std::ofstream(out, std::ios::binary)
      .write(reinterpret_cast<const char*>(logits.data()),
             static_cast<std::streamsize>(logits.size() * sizeof(float)));
  return status;
}

}  // namespace
}  // namespace mindforge

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: folder_logits FOLDER ID,ID,... OUT\n");
    return 2;
  }
  const absl::Status status = mindforge::Run(argv[1], argv[2], argv[3]);
  if (status.ok()) return 0;
  std::fprintf(stderr, "folder_logits: %s\n", std::string(status.message()).c_str());
  return 1;
}
