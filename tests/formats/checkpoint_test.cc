#include "worker/formats/checkpoint.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/formats/temp_dir.h"
#include "worker/formats/checkpoint_names.h"
#include "worker/formats/hf_folder.h"
#include "worker/formats/tokenizer_files.h"

namespace mindforge {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

// A model of a few numbers and what is needed to write it.
class TinyJob {
 public:
  TinyJob() {
    contents_.model_config.hidden_size = 8;
    contents_.model_config.num_hidden_layers = 1;
    contents_.model_config.num_attention_heads = 2;
    contents_.model_config.num_key_value_heads = 1;
    contents_.model_config.vocab_size = 6400;
    contents_.model_config.intermediate_size = 16;
    for (const ExpectedTensor& tensor : ExpectedTensors(contents_.model_config)) {
      data_.emplace_back(ElementCount(tensor.shape));
      for (float& value : data_.back()) value = static_cast<float>(++next_);
      model_.push_back({tensor.name, DType::kF32, tensor.shape, data_.back().data(),
                        static_cast<int64_t>(data_.back().size() * sizeof(float))});
    }
    contents_.model = model_;
    contents_.optimizer = absl::MakeSpan(model_).subspan(0, 2);
    contents_.tokenizer = ReadTokenizerFiles(TestData("tokenizer"))->texts;
    contents_.state.job_id = "job-1";
    contents_.state.step = 12;
    contents_.state.generation = 3;
    contents_.state.epoch = 1;
    contents_.state.sequences_consumed = 384;
    contents_.state.seed = 0xFFFFFFFFFFFFFFFFu;
    contents_.state.config = {{"epochs", 2}};
    contents_.state.dataset_digest = "0123456789abcdef";
    contents_.state.device_kind = "cpu avx2";
    contents_.state.world_size_history = {{1, 2}, {7, 1}};
    contents_.state.numerics_history = {{1, "cpu one"}, {9, "cpu avx2"}};
    contents_.state.tracker_ids = {{"tensorboard", "run-1"}};
    contents_.state.loss = 2.5;
  }

  CheckpointContents& contents() { return contents_; }

  std::string Write(const std::string& dir) {
    const auto folder = WriteCheckpoint(dir, contents_);
    EXPECT_TRUE(folder.ok()) << folder.status();
    return folder.ok() ? folder->path : "";
  }

 private:
  int next_ = 0;
  std::vector<std::vector<float>> data_;
  std::vector<TensorView> model_;
  CheckpointContents contents_;
};

std::vector<std::string> NamesIn(const std::string& dir) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir)) names.push_back(entry.path().filename());
  return names;
}

TEST(Checkpoint, ReadsBackEqualAndServesAsAModelFolder) {
  const TempDir dir;
  TinyJob job;
  const std::string path = job.Write(dir.File("job"));
  EXPECT_EQ(path, dir.File("job") + "/step-12.g3");
  EXPECT_THAT(NamesIn(dir.File("job")), ElementsAre("step-12.g3"));
  EXPECT_THAT(NamesIn(path),
              UnorderedElementsAre("model.safetensors", "optimizer.safetensors", "state.json",
                                   "config.json", "generation_config.json", "tokenizer.json",
                                   "tokenizer_config.json", "MANIFEST.json"));
  const auto loaded = LoadCheckpoint(path);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const CheckpointState& state = job.contents().state;
  EXPECT_EQ(CheckpointStateToJson(loaded->state), CheckpointStateToJson(state));
  EXPECT_EQ(loaded->state.seed, state.seed);
  EXPECT_EQ(loaded->state.world_size_history, state.world_size_history);
  EXPECT_EQ(loaded->state.numerics_history, state.numerics_history);
  for (const TensorView& written : job.contents().model) {
    const TensorView* const read = loaded->model->Find(written.name);
    ASSERT_NE(read, nullptr);
    EXPECT_EQ(std::memcmp(read->data, written.data, written.bytes), 0);
  }
  EXPECT_EQ(loaded->optimizer->tensors().size(), 2u);

  const auto folder = OpenModelFolder(path);
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_THAT(folder->warnings, IsEmpty());
  EXPECT_EQ(folder->tokenizer_path, path);
  EXPECT_EQ(folder->generation.top_k, 50);
}

TEST(Checkpoint, CarriesATemplateThatLiesInAFolderOfItsOwn) {
  constexpr char kToolUse[] = "additional_chat_templates/tool_use.jinja";
  const TempDir dir;
  TinyJob job;
  job.contents().tokenizer[kToolUse] = "{{ tools }}";
  const std::string path = job.Write(dir.path());
  EXPECT_TRUE(VerifyCheckpoint(path).ok()) << VerifyCheckpoint(path);
  EXPECT_EQ(ReadTokenizerFiles(path)->texts, job.contents().tokenizer);
  WriteBytes(path + "/" + kToolUse, "{{ other }}");
  EXPECT_TRUE(absl::IsDataLoss(VerifyCheckpoint(path)));
  EXPECT_TRUE(RemoveCheckpoint(path).ok());
  EXPECT_FALSE(fs::exists(path));
}

TEST(Checkpoint, KeepsANotANumberLoss) {
  const TempDir dir;
  TinyJob job;
  job.contents().state.loss = std::nan("");
  const auto state = ReadCheckpointState(job.Write(dir.path()));
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_TRUE(std::isnan(state->loss));
}

TEST(Checkpoint, ReportsEveryTornFileByName) {
  const TempDir dir;
  TinyJob job;
  const std::string path = job.Write(dir.path());
  ASSERT_TRUE(VerifyCheckpoint(path).ok()) << VerifyCheckpoint(path);
  for (const std::string& name : NamesIn(path)) {
    const std::string file = path + "/" + name;
    const std::string sound = ReadBytes(file);
    const auto expect_loss = [&](const char* what) {
      const absl::Status status = VerifyCheckpoint(path);
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << name << " " << what << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(name)) << what;
      EXPECT_EQ(LoadCheckpoint(path).status().code(), absl::StatusCode::kDataLoss);
    };
    for (const size_t size : {size_t{0}, sound.size() / 2, sound.size() - 1}) {
      WriteBytes(file, sound.substr(0, size));
      // A manifest without its last newline says the same.
      if (name != "MANIFEST.json" || size + 1 < sound.size()) expect_loss("truncated");
    }
    for (const size_t at : {size_t{0}, sound.size() / 2, sound.size() - 1}) {
      std::string flipped = sound;
      flipped[at] = static_cast<char>(flipped[at] ^ 4);
      WriteBytes(file, flipped);
      expect_loss("flipped");
    }
    WriteBytes(file, sound + "x");
    expect_loss("grown");
    fs::remove(file);
    expect_loss("removed");
    WriteBytes(file, sound);
    EXPECT_TRUE(VerifyCheckpoint(path).ok()) << VerifyCheckpoint(path);
  }
  EXPECT_EQ(VerifyCheckpoint(dir.File("step-1.g1")).code(), absl::StatusCode::kNotFound);
}

TEST(Checkpoint, WhatTheDiskCannotReadIsLost) {
  const TempDir dir;
  TinyJob job;
  const std::string path = job.Write(dir.path());
  for (const char* name : {"optimizer.safetensors", "MANIFEST.json"}) {
    fs::remove(path + "/" + name);
    fs::create_symlink("/proc/self/mem", path + "/" + name);  // read(2) at its start is EIO
    const absl::Status status = VerifyCheckpoint(path);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  }
}

TEST(Checkpoint, NoBitOfTheManifestChangesUnseen) {
  const TempDir dir;
  TinyJob job;
  const std::string path = job.Write(dir.path());
  const std::string file = path + "/MANIFEST.json";
  const std::string sound = ReadBytes(file);
  for (size_t at = 0; at < sound.size(); at += 7) {
    std::string flipped = sound;
    flipped[at] = static_cast<char>(flipped[at] ^ (1 << (at % 8)));
    WriteBytes(file, flipped);
    EXPECT_EQ(VerifyCheckpoint(path).code(), absl::StatusCode::kDataLoss) << at;
  }
}

TEST(Checkpoint, ReplacesAFolderOfTheSameName) {
  const TempDir dir;
  TinyJob job;
  job.Write(dir.path());
  job.contents().state.loss = 1.25;
  const std::string path = job.Write(dir.path());
  EXPECT_EQ(ReadCheckpointState(path)->loss, 1.25);
  EXPECT_THAT(NamesIn(dir.path()), ElementsAre("step-12.g3"));
  EXPECT_TRUE(VerifyCheckpoint(path).ok());
}

TEST(Checkpoint, LeavesNothingHalfWritten) {
  const TempDir dir;
  TinyJob job;
  job.Write(dir.path());
  job.contents().state.step = 13;
  {
    const FileSizeLimit limit(1500);  // the weights do not fit
    EXPECT_EQ(WriteCheckpoint(dir.path(), job.contents()).status().code(),
              absl::StatusCode::kUnavailable);
  }
  EXPECT_THAT(NamesIn(dir.path()), ElementsAre("step-12.g3"));
  job.contents().state.step = -1;
  EXPECT_EQ(WriteCheckpoint(dir.path(), job.contents()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(CheckpointDir, ListsCompleteFoldersInOrder) {
  const TempDir dir;
  TinyJob job;
  for (const auto& [step, generation] : {std::pair{100, 1}, {20, 1}, {20, 2}, {3, 9}}) {
    job.contents().state.step = step;
    job.contents().state.generation = generation;
    job.Write(dir.path());
  }
  for (const char* name : {"step-5.g1", "step-x.g1", "step-05.g1", "step-7.g", "step-7.g1.old",
                           ".writing-step-9.g1", "quarantined-step-8.g1", "notes"}) {
    fs::create_directory(dir.File(name));
    // Complete but for the first: only names can keep the others out.
    if (std::string(name) != "step-5.g1") WriteBytes(dir.File(name) + "/MANIFEST.json", "{}");
  }
  const auto folders = ListCheckpoints(dir.path());
  ASSERT_TRUE(folders.ok()) << folders.status();
  std::vector<std::string> names;
  for (const CheckpointFolder& folder : *folders) {
    names.push_back(CheckpointFolderName(folder.step, folder.generation));
    EXPECT_EQ(folder.path, dir.File(names.back()));
  }
  EXPECT_THAT(names, ElementsAre("step-3.g9", "step-20.g1", "step-20.g2", "step-100.g1"));
  EXPECT_THAT(*ListCheckpoints(dir.File("absent")), IsEmpty());
}

TEST(CheckpointDir, PutsBadFoldersAside) {
  const TempDir dir;
  TinyJob job;
  for (const char* expected : {"quarantined-step-12.g3", "quarantined-step-12.g3.1"}) {
    const auto moved = QuarantineCheckpoint(job.Write(dir.path()) + "/");
    ASSERT_TRUE(moved.ok()) << moved.status();
    EXPECT_EQ(*moved, dir.File(expected));
  }
  EXPECT_THAT(*ListCheckpoints(dir.path()), IsEmpty());
  EXPECT_EQ(QuarantineCheckpoint(dir.File("step-12.g3")).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(CheckpointDir, RemovesFoldersAndLeftovers) {
  const TempDir dir;
  TinyJob job;
  const std::string path = job.Write(dir.path());
  EXPECT_TRUE(RemoveCheckpoint(path).ok());
  EXPECT_TRUE(RemoveCheckpoint(path).ok());
  EXPECT_THAT(NamesIn(dir.path()), IsEmpty());

  const std::string mine = TemporaryFolderName("step-1.g1");
  std::string abandoned = mine;  // of a process id that cannot be
  const std::string pid = "." + std::to_string(::getpid()) + ".";
  abandoned.replace(abandoned.find(pid), pid.size(), ".2147483647.");
  const std::string elsewhere = ".writing-step-1.g1.another-host.2147483647.abc";
  for (const std::string& name :
       {mine, abandoned, elsewhere, std::string(".removing-step-2.g1.x")}) {
    fs::create_directory(dir.File(name));
  }
  const auto removed = RemoveCheckpointLeftovers(dir.path());
  ASSERT_TRUE(removed.ok()) << removed.status();
  EXPECT_EQ(*removed, 2);
  EXPECT_THAT(NamesIn(dir.path()), UnorderedElementsAre(mine, elsewhere));
}

TEST(CheckpointState, NamesTheFieldThatIsWrong) {
  const auto good = CheckpointStateToJson(CheckpointState());
  ASSERT_TRUE(CheckpointStateFromJson(good).ok());
  for (const auto& [name, value] : good.items()) {
    auto missing = good;
    missing.erase(name);
    if (name == "validation_loss" || name == "counters" || name == "numerics_history") {
      EXPECT_TRUE(CheckpointStateFromJson(missing).ok()) << "older programs do not write it";
    } else {
      EXPECT_THAT(std::string(CheckpointStateFromJson(missing).status().message()),
                  HasSubstr(name));
    }
    auto wrong = good;
    wrong[name] = nlohmann::json::array({nlohmann::json::array()});
    if (name == "config") continue;  // any JSON
    EXPECT_EQ(CheckpointStateFromJson(wrong).status().code(), absl::StatusCode::kInvalidArgument)
        << name;
  }
}

TEST(CheckpointState, KeepsWhereTrainingStands) {
  CheckpointState state;
  state.step = 20;
  state.validation_loss = 2.5;
  state.counters = {.updates = 15,
                    .skipped_steps = 5,
                    .skipped_in_a_row = 1,
                    .rollbacks_in_a_row = 2,
                    .rolled_back_to = 11,
                    .loss_scale = 4096,
                    .good_steps = 3};
  const auto read = CheckpointStateFromJson(CheckpointStateToJson(state));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->validation_loss, 2.5);
  EXPECT_EQ(read->counters, state.counters);
  auto older = CheckpointStateToJson(state);
  older.erase("counters");
  EXPECT_EQ(CheckpointStateFromJson(older)->counters.updates, 20) << "no step was left out then";
}

// Written by earlier builds, kept in tests/data/upgrade.
TEST(CheckpointState, OfEarlierBuildsIsRead) {
  int read = 0;
  const fs::path kept = fs::path(std::getenv("MINDFORGE_TEST_DATA")) / "upgrade/checkpoints";
  for (const auto& entry : fs::recursive_directory_iterator(kept)) {
    if (entry.path().filename() != "state.json") continue;
    std::ifstream file(entry.path());
    const auto state = CheckpointStateFromJson(nlohmann::json::parse(file));
    ASSERT_TRUE(state.ok()) << entry.path() << ": " << state.status();
    EXPECT_EQ(state->counters.updates, state->step);
    EXPECT_EQ(state->counters.rolled_back_to, -1);
    EXPECT_TRUE(state->numerics_history.empty());
    ++read;
  }
  EXPECT_EQ(read, 2);
}

}  // namespace
}  // namespace mindforge
