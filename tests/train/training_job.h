// A tiny job on disk for tests that train: a folder of its own, a small corpus, and the order that
// starts it.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "mindforge/v1/trainer.pb.h"
#include "tests/fakes/temp_dir.h"

namespace mindforge {

// The test's folder, short to write: folder / "data.jsonl".
class TestFolder : public TempDir {
 public:
  std::string operator/(std::string_view name) const { return File(std::string(name)); }
};

inline std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  MF_CHECK(file.good()) << path;
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

inline void WriteCorpus(const std::string& path, int lines) {
  static constexpr const char* kWords[] = {"moon",    "river",    "letter", "winter",
                                           "lantern", "crane",    "boat",   "north",
                                           "silk",    "mountain", "rain",   "song"};
  std::ofstream file(path);
  for (int line = 0; line < lines; ++line) {
    file << "{\"text\": \"";
    for (int word = 0; word < 5 + line % 17; ++word) {
      file << (word == 0 ? "" : " ") << kWords[(line * 7 + word * (line % 5 + 1)) % 12];
    }
    file << "\"}\n";
  }
}

inline std::string TestTokenizer() {
  const char* data = std::getenv("MINDFORGE_TEST_DATA");
  MF_CHECK(data != nullptr) << "MINDFORGE_TEST_DATA is not set";
  return absl::StrCat(data, "/tokenizer");
}

// 43 sequences in microbatches of 2, four a step: 6 steps an epoch, whose last one has two
// microbatches, the second of a single sequence.
inline v1::StartTraining TinyJob(const TestFolder& folder) {
  if (!std::filesystem::exists(folder / "data.jsonl")) WriteCorpus(folder / "data.jsonl", 43);
  v1::StartTraining start;
  start.set_job_id("job-1");
  start.set_generation(1);
  start.set_checkpoint_dir(folder / "checkpoints");
  start.mutable_device()->set_id("cpu:0");
  start.mutable_device()->set_kind(v1::DEVICE_KIND_CPU);
  start.mutable_device()->set_threads(1);
  v1::JobSpec& spec = *start.mutable_spec();
  spec.set_name("tiny");
  spec.mutable_model()->set_hidden_size(32);
  spec.mutable_model()->set_num_hidden_layers(2);
  spec.mutable_model()->set_num_attention_heads(2);
  spec.mutable_model()->set_num_key_value_heads(1);
  spec.mutable_data()->set_path(folder / "data.jsonl");
  spec.mutable_data()->set_tokenizer(TestTokenizer());
  spec.mutable_data()->set_max_seq_len(24);
  v1::TrainingSpec& training = *spec.mutable_training();
  training.set_epochs(2);
  training.set_microbatch_size(2);
  training.set_accumulation_steps(4);
  training.set_learning_rate(1e-2);
  training.set_dtype("float32");
  spec.mutable_checkpoint()->set_every_steps(0);
  spec.set_log_every_steps(2);
  return start;
}

}  // namespace mindforge
