#include "worker/formats/model_folder_writer.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <string_view>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/status_macros.h"
#include "worker/formats/checkpoint.h"
#include "worker/formats/checkpoint_names.h"
#include "worker/formats/digest_file.h"
#include "worker/formats/manifest.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

constexpr int kIndent = 2;

// What a model folder may hold, ours or another program's.
constexpr std::array<std::string_view, 12> kKnownNames = {"config.json",
                                                          "generation_config.json",
                                                          "tokenizer.json",
                                                          "tokenizer_config.json",
                                                          "chat_template.jinja",
                                                          "special_tokens_map.json",
                                                          "added_tokens.json",
                                                          "vocab.json",
                                                          "merges.txt",
                                                          "README.md",
                                                          "LICENSE",
                                                          "pytorch_model.bin"};

bool IsKnown(const std::string& name) {
  return name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") ||
         std::find(kKnownNames.begin(), kKnownNames.end(), name) != kKnownNames.end();
}

// OK when `path` may be made or replaced.
absl::Status CheckTarget(const std::string& path, bool overwrite) {
  const absl::StatusOr<std::vector<std::string>> names = ListDir(path);
  if (absl::IsNotFound(names.status())) return absl::OkStatus();
  if (!names.ok()) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " is no folder that can be written: ", std::string(names.status().message())));
  }
  if (names->empty()) return absl::OkStatus();
  if (!overwrite) {
    return absl::AlreadyExistsError(
        absl::StrCat(path, " exists and is not empty; choose another folder, or --overwrite"));
  }
  for (const std::string& name : *names) {
    if (name == kManifestName) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, " is a checkpoint, which is not overwritten; choose another folder"));
    }
    if (!IsKnown(name)) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, " holds \"", name,
                       "\", which belongs to no model folder; it is not overwritten. Choose "
                       "another folder"));
    }
  }
  return absl::OkStatus();
}

absl::Status WriteText(const std::string& path, const std::string& text) {
  ASSIGN_OR_RETURN(const std::unique_ptr<DigestFile> file, DigestFile::Create(path));
  RETURN_IF_ERROR(file->Append(text));
  return file->Finish().status();
}

absl::Status WriteAll(const std::string& folder, const ModelFolderContents& contents) {
  for (const auto& [name, json] :
       {std::pair{"config.json", &contents.config},
        std::pair{"generation_config.json", &contents.generation_config}}) {
    const std::string text = json->dump(kIndent, ' ', false, Json::error_handler_t::replace);
    RETURN_IF_ERROR(WriteText(JoinPath(folder, name), text + "\n"));
  }
  for (const auto& [name, text] : contents.texts) {
    RETURN_IF_ERROR(WriteText(JoinPath(folder, name), text));
  }
  const std::string weights = JoinPath(folder, "model.safetensors");
  const std::map<std::string, std::string> metadata = {{"format", "pt"}};
  RETURN_IF_ERROR(contents.dtype.has_value()
                      ? WriteSafetensorsAs(weights, contents.tensors, *contents.dtype, metadata)
                      : WriteSafetensors(weights, contents.tensors, metadata));
  return SyncDir(folder);
}

absl::Status Rename(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "cannot rename to", to);
}

// A folder cannot be renamed over one that is not empty: that one makes way first.
absl::Status Publish(const std::string& temporary, const std::string& path) {
  const absl::Status renamed = Rename(temporary, path);
  if (renamed.ok() || !PathExists(path)) return renamed;
  RETURN_IF_ERROR(RemoveCheckpoint(path));  // renames away, then deletes
  return Rename(temporary, path);
}

std::string WithoutSlashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

}  // namespace

absl::Status WriteModelFolder(const std::string& out, const ModelFolderContents& contents,
                              bool overwrite) {
  const std::string path = WithoutSlashes(out);
  RETURN_IF_ERROR(CheckTarget(path, overwrite));
  const std::string parent = ParentOf(path);
  RETURN_IF_ERROR(MakeDirs(parent));
  const std::string temporary = JoinPath(parent, TemporaryFolderName(NameOf(path)));
  if (::mkdir(temporary.c_str(), 0755) != 0) return ErrnoStatus(errno, "cannot make", temporary);
  absl::Cleanup remove = [&temporary] {
    RemoveTree(temporary).IgnoreError();  // the error that led here is the one to report
  };
  RETURN_IF_ERROR(WriteAll(temporary, contents)) << path;
  RETURN_IF_ERROR(Publish(temporary, path));
  std::move(remove).Cancel();
  return SyncDir(parent);
}

absl::Status WriteFileAtomically(const std::string& path, bool overwrite,
                                 const std::function<absl::Status(const std::string&)>& write) {
  if (PathExists(path) && !overwrite) {
    return absl::AlreadyExistsError(
        absl::StrCat(path, " exists; choose another folder, or --overwrite"));
  }
  const std::string parent = ParentOf(path);
  RETURN_IF_ERROR(MakeDirs(parent));
  // The ending tells some writers the format.
  const std::string temporary =
      JoinPath(parent, absl::StrCat(TemporaryFolderName(""), "-", NameOf(path)));
  absl::Cleanup remove = [&temporary] { ::unlink(temporary.c_str()); };
  RETURN_IF_ERROR(write(temporary)) << path;
  RETURN_IF_ERROR(Rename(temporary, path));
  std::move(remove).Cancel();
  return SyncDir(parent);
}

}  // namespace mindforge
