// Writing, verifying and loading one checkpoint folder; checkpoint_dir.cc handles a folder of them.
#include "worker/formats/checkpoint.h"

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "worker/formats/checkpoint_names.h"
#include "worker/formats/digest_file.h"
#include "worker/formats/hf_folder.h"
#include "worker/formats/json_file.h"
#include "worker/formats/manifest.h"
#include "worker/formats/publish.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

constexpr char kModelName[] = "model.safetensors";
constexpr char kOptimizerName[] = "optimizer.safetensors";
constexpr char kStateName[] = "state.json";
constexpr char kConfigName[] = "config.json";
constexpr char kGenerationConfigName[] = "generation_config.json";
constexpr std::array kRequiredNames = {kModelName, kOptimizerName, kStateName, kConfigName};
constexpr size_t kMaxManifestBytes = size_t{64} << 20;
constexpr int kIndent = 2;

// The files of one folder while they are written.
class FolderWriter {
 public:
  explicit FolderWriter(std::string folder) : folder_(std::move(folder)) {}

  absl::Status WriteText(const std::string& name, std::string_view text) {
    ASSIGN_OR_RETURN(manifest_[name], WriteFileOf(folder_, name, text));
    return absl::OkStatus();
  }

  absl::Status WriteTensors(const std::string& name, absl::Span<const TensorView> tensors) {
    ASSIGN_OR_RETURN(manifest_[name],
                     WriteSafetensors(JoinPath(folder_, name), tensors, {{"format", "pt"}}));
    return absl::OkStatus();
  }

  // Last: the manifest vouches for all that was written before.
  absl::Status Finish() {
    RETURN_IF_ERROR(WriteFileOf(folder_, kManifestName, ManifestToText(manifest_)));
    return SyncDir(folder_);
  }

 private:
  const std::string folder_;
  Manifest manifest_;
};

absl::Status WriteFiles(const std::string& folder, const CheckpointContents& contents) {
  FolderWriter writer(folder);
  RETURN_IF_ERROR(writer.WriteTensors(kModelName, contents.model));
  RETURN_IF_ERROR(writer.WriteTensors(kOptimizerName, contents.optimizer));
  const Json generation = contents.generation_config.is_null()
                              ? DefaultGenerationConfig(contents.model_config)
                              : contents.generation_config;
  Json config = ModelConfigToJson(contents.model_config);
  if (contents.lora_rank > 0) config[kLoraRankField] = contents.lora_rank;
  if (!contents.prompt_style.empty()) config[kPromptStyleField] = contents.prompt_style;
  const std::pair<const char*, Json> texts[] = {{kStateName, CheckpointStateToJson(contents.state)},
                                                {kConfigName, config},
                                                {kGenerationConfigName, generation}};
  for (const auto& [name, json] : texts) {
    // What is not UTF-8 in names that users chose must not stop a checkpoint.
    const std::string text = json.dump(kIndent, ' ', false, Json::error_handler_t::replace);
    RETURN_IF_ERROR(writer.WriteText(name, text + "\n"));
  }
  for (const auto& [name, text] : contents.tokenizer) {
    RETURN_IF_ERROR(writer.WriteText(name, text));
  }
  return writer.Finish();
}

}  // namespace

absl::StatusOr<CheckpointFolder> WriteCheckpoint(const std::string& dir,
                                                 const CheckpointContents& contents) {
  const int64_t step = contents.state.step;
  const int64_t generation = contents.state.generation;
  if (step < 0 || generation < 0) {
    return absl::InvalidArgumentError("a checkpoint's step and generation cannot be negative");
  }
  RETURN_IF_ERROR(MakeDirs(dir));
  const std::string name = CheckpointFolderName(step, generation);
  const std::string temporary = JoinPath(dir, TemporaryFolderName(name));
  if (::mkdir(temporary.c_str(), 0755) != 0) return ErrnoStatus(errno, "cannot make", temporary);
  absl::Cleanup remove = [&temporary] {
    RemoveTree(temporary).IgnoreError();  // the error that led here is the one to report
  };
  const CheckpointFolder folder{JoinPath(dir, name), step, generation};
  RETURN_IF_ERROR(WriteFiles(temporary, contents)) << "checkpoint " << folder.path;
  RETURN_IF_ERROR(PublishFolder(temporary, folder.path, /*replace=*/true))
      << "checkpoint " << folder.path;
  std::move(remove).Cancel();
  return folder;
}

absl::Status VerifyCheckpoint(const std::string& path) {
  if (!PathExists(path)) return absl::NotFoundError(absl::StrCat("no checkpoint ", path));
  const absl::StatusOr<std::string> text =
      ReadFile(JoinPath(path, kManifestName), kMaxManifestBytes);
  if (absl::IsNotFound(text.status()) || absl::IsOutOfRange(text.status())) {
    return absl::DataLossError(
        absl::StrCat("checkpoint ", path, ": ", kManifestName, " is missing or far too long"));
  }
  RETURN_IF_ERROR(text.status());
  const absl::StatusOr<Manifest> manifest = ManifestFromText(*text);
  RETURN_IF_ERROR(manifest.status()) << "checkpoint " << path;
  for (const char* name : kRequiredNames) {
    if (!manifest->contains(name)) {
      return absl::DataLossError(
          absl::StrCat("checkpoint ", path, ": ", kManifestName, " does not list ", name));
    }
  }
  RETURN_IF_ERROR(CheckFiles(path, *manifest)) << "checkpoint " << path;
  return absl::OkStatus();
}

absl::StatusOr<CheckpointState> ReadCheckpointState(const std::string& path) {
  ASSIGN_OR_RETURN(const Json json, ReadJsonFile(JoinPath(path, kStateName)));
  return CheckpointStateFromJson(json);
}

absl::StatusOr<LoadedCheckpoint> LoadCheckpoint(const std::string& path) {
  RETURN_IF_ERROR(VerifyCheckpoint(path));
  LoadedCheckpoint loaded;
  ASSIGN_OR_RETURN(loaded.state, ReadCheckpointState(path));
  ASSIGN_OR_RETURN(const Json config, ReadJsonFile(JoinPath(path, kConfigName)));
  ASSIGN_OR_RETURN(loaded.model_config, ParseModelConfig(config, nullptr));
  ASSIGN_OR_RETURN(loaded.model, SafetensorsFile::Open(JoinPath(path, kModelName)));
  ASSIGN_OR_RETURN(loaded.optimizer, SafetensorsFile::Open(JoinPath(path, kOptimizerName)));
  return loaded;
}

}  // namespace mindforge
