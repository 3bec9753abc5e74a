// A checkpoint on disk: the folder `step-S.gG` (step, generation), which is at the same time a
// Hugging Face model folder. Written under a temporary name, synced, renamed; a manifest holds size
// and XXH3-64 of every file. It does not know which checkpoints are committed or kept: the
// coordinator does.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "nlohmann/json.hpp"
#include "worker/formats/hf_folder.h"
#include "worker/formats/model_config.h"
#include "worker/formats/safetensors.h"

namespace mindforge {

// From step `first_step` on the job ran with `world_size` ranks.
struct WorldSizeChange {
  int64_t first_step = 0;
  int64_t world_size = 0;

  bool operator==(const WorldSizeChange&) const = default;
};

// From `first_step` on the job's steps were computed with these numerics.
struct NumericsPeriod {
  int64_t first_step = 0;
  std::string name;

  bool operator==(const NumericsPeriod&) const = default;
};

// Where training stands beyond its step number. Fixed layout: it also travels between ranks as its
// bytes.
struct TrainingCounters {
  int64_t updates = 0;        // AdamW updates in the weights; behind the step by those left out
  int64_t skipped_steps = 0;  // that changed nothing, or were rolled back
  int64_t skipped_in_a_row = 0;
  int64_t rollbacks_in_a_row = 0;  // to the same updates
  int64_t rolled_back_to = -1;     // the updates that the last rollback went back to; -1: none
  double loss_scale = 0;           // float16 alone
  int64_t good_steps = 0;          // since the loss scale last changed

  bool operator==(const TrainingCounters&) const = default;
};

// What state.json holds: all that is needed to go on, besides the tensors.
struct CheckpointState {
  std::string job_id;
  int64_t step = 0;  // optimizer steps done
  int64_t generation = 0;
  int64_t epoch = 0;               // from 0: the epoch that the next step belongs to
  int64_t sequences_consumed = 0;  // in that epoch
  uint64_t seed = 0;
  nlohmann::json config = nlohmann::json::object();  // the job's model and training settings
  std::string dataset_digest;
  std::string device_kind;  // the name of the numerics it was trained with
  std::vector<WorldSizeChange> world_size_history;
  std::vector<NumericsPeriod> numerics_history;  // more than one: the job was repinned
  std::map<std::string, std::string> tracker_ids;
  double loss = 0;  // of step `step`; NaN is kept
  std::optional<double> validation_loss;
  TrainingCounters counters;
};

nlohmann::json CheckpointStateToJson(const CheckpointState& state);
// INVALID_ARGUMENT naming the field that is missing or of a wrong type.
absl::StatusOr<CheckpointState> CheckpointStateFromJson(const nlohmann::json& json);

// One checkpoint to be written. Borrows everything for the duration of the call.
struct CheckpointContents {
  CheckpointState state;
  ModelConfig model_config;
  absl::Span<const TensorView> model;
  absl::Span<const TensorView> optimizer;
  nlohmann::json generation_config;  // null: the reference's sampling defaults
  // The tokenizer's files by name (TokenizerFiles::texts), as they were when the job began: the
  // user's own may change or go while it trains.
  std::map<std::string, std::string> tokenizer;
  // Of the LoRA adapters among `model`, written to config.json; 0: there are none.
  int64_t lora_rank = 0;
  std::string prompt_style = kCompletionStyle;  // written to config.json; empty: not said
};

// A complete checkpoint folder.
struct CheckpointFolder {
  std::string path;
  int64_t step = 0;
  int64_t generation = 0;
};

// `step-S.gG`.
std::string CheckpointFolderName(int64_t step, int64_t generation);
// False when `name` is not exactly a checkpoint folder's name.
bool ParseCheckpointFolderName(std::string_view name, int64_t* step, int64_t* generation);

// Writes one checkpoint into `dir` (created when missing) and returns the folder. On OK it is
// durable: every file, the folder and `dir` are synced. A complete folder of the same name is
// replaced. On error nothing but the untouched older folders is left; RESOURCE_EXHAUSTED: the disk
// is full. Safe to call from several threads or processes for different names.
absl::StatusOr<CheckpointFolder> WriteCheckpoint(const std::string& dir,
                                                 const CheckpointContents& contents);

// Reads every file against the manifest. OK: bit-equal to what was written. DATA_LOSS names the
// file and what differs. NOT_FOUND: no such folder.
absl::Status VerifyCheckpoint(const std::string& path);

// A verified checkpoint, mapped.
struct LoadedCheckpoint {
  CheckpointState state;
  ModelConfig model_config;
  std::unique_ptr<SafetensorsFile> model;
  std::unique_ptr<SafetensorsFile> optimizer;
};

// Verifies (see VerifyCheckpoint), then opens.
absl::StatusOr<LoadedCheckpoint> LoadCheckpoint(const std::string& path);

// state.json alone, unverified.
absl::StatusOr<CheckpointState> ReadCheckpointState(const std::string& path);

// XXH3-64 of MANIFEST.json as 16 hexadecimal digits: names the checkpoint's content.
absl::StatusOr<std::string> CheckpointDigest(const std::string& path);

// Bytes of the folder's files; of those that can be seen, where the storage is in trouble.
int64_t CheckpointBytes(const std::string& path);

// The complete folders (those with a manifest) in `dir`, ascending by (step, generation). A missing
// `dir` has none. Temporary, quarantined and foreign folders are skipped.
absl::StatusOr<std::vector<CheckpointFolder>> ListCheckpoints(const std::string& dir);

// Renames a bad folder to `quarantined-<name>[.n]` beside it, so that nobody loads it and somebody
// can look at it. Returns the new path.
absl::StatusOr<std::string> QuarantineCheckpoint(const std::string& path);

// Renames away first, then deletes, so that no half-deleted folder ever has a checkpoint's name.
// OK when it does not exist.
absl::Status RemoveCheckpoint(const std::string& path);

// Deletes what a crash left behind in `dir`: temporary folders of writers that no longer run on
// this host and folders already renamed for deletion. Returns how many.
absl::StatusOr<int> RemoveCheckpointLeftovers(const std::string& dir);

}  // namespace mindforge
