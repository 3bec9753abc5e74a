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
#include "worker/formats/publish.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

constexpr int kIndent = 2;

// What a model folder may hold, ours or another program's.
constexpr std::array<std::string_view, 13> kKnownNames = {"config.json",
                                                          "generation_config.json",
                                                          "tokenizer.json",
                                                          "tokenizer_config.json",
                                                          "chat_template.jinja",
                                                          "additional_chat_templates",
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

// OK when `path` is a name that a rename can give to a folder. Found out now, not after the work.
absl::Status CheckName(const std::string& path) {
  constexpr char kRemedy[] = "; name a folder inside it, or another that is not there yet";
  const std::string name = NameOf(path);
  if (name.empty() || name == "." || name == "..") {
    return absl::FailedPreconditionError(
        absl::StrCat("\"", path, "\" cannot be replaced as a whole", kRemedy));
  }
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? absl::OkStatus() : ErrnoStatus(errno, "cannot look at", path);
  }
  if (S_ISLNK(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is a link, which is not replaced", kRemedy));
  }
  if (!S_ISDIR(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is no folder; name one, or one that is not there yet"));
  }
  struct stat parent {};
  if (::stat(ParentOf(path).c_str(), &parent) == 0 && parent.st_dev != info.st_dev) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is a mount point, which cannot be replaced", kRemedy));
  }
  return absl::OkStatus();
}

// OK when `path` may be made or replaced.
absl::Status CheckTarget(const std::string& path, bool overwrite) {
  RETURN_IF_ERROR(CheckName(path));
  const absl::StatusOr<std::vector<std::string>> names = ListDir(path);
  if (absl::IsNotFound(names.status())) return absl::OkStatus();
  RETURN_IF_ERROR(names.status());
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

// OK when the file `path` may be made or replaced; the rename decides once more.
absl::Status CheckFileTarget(const std::string& path, bool overwrite) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return absl::OkStatus();
  if (!overwrite) {
    return absl::AlreadyExistsError(
        absl::StrCat(path, " exists; choose another folder, or --overwrite"));
  }
  if (!S_ISDIR(info.st_mode)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(path, " is a folder and is not replaced by a file; choose another --out"));
}

absl::Status WriteAll(const std::string& folder, const ModelFolderContents& contents) {
  for (const auto& [name, json] :
       {std::pair{"config.json", &contents.config},
        std::pair{"generation_config.json", &contents.generation_config}}) {
    const std::string text = json->dump(kIndent, ' ', false, Json::error_handler_t::replace);
    RETURN_IF_ERROR(WriteFileOf(folder, name, text + "\n"));
  }
  for (const auto& [name, text] : contents.texts) {
    RETURN_IF_ERROR(WriteFileOf(folder, name, text));
  }
  const std::string weights = JoinPath(folder, "model.safetensors");
  const std::map<std::string, std::string> metadata = {{"format", "pt"}};
  RETURN_IF_ERROR(contents.dtype.has_value()
                      ? WriteSafetensorsAs(weights, contents.tensors, *contents.dtype, metadata)
                      : WriteSafetensors(weights, contents.tensors, metadata));
  return SyncDir(folder);
}

// A temporary folder beside `path`. Those that programs of this host left when they died go.
absl::StatusOr<std::string> MakeTemporary(const std::string& path) {
  const std::string parent = ParentOf(path);
  RETURN_IF_ERROR(MakeDirs(parent));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(parent));
  for (const std::string& name : names) {
    if (name.starts_with(kWritingPrefix) && IsAbandoned(name)) {
      RemoveTree(JoinPath(parent, name)).IgnoreError();  // it only takes up space
    }
  }
  std::string temporary = JoinPath(parent, TemporaryFolderName(NameOf(path)));
  if (::mkdir(temporary.c_str(), 0755) != 0) return ErrnoStatus(errno, "cannot make", temporary);
  return temporary;
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
  ASSIGN_OR_RETURN(const std::string temporary, MakeTemporary(path));
  absl::Cleanup remove = [&temporary] {
    RemoveTree(temporary).IgnoreError();  // the error that led here is the one to report
  };
  RETURN_IF_ERROR(WriteAll(temporary, contents)) << path;
  RETURN_IF_ERROR(PublishFolder(temporary, path, overwrite));
  std::move(remove).Cancel();
  return absl::OkStatus();
}

absl::Status WriteFilesAtomically(const std::vector<NewFile>& files, bool overwrite) {
  for (const NewFile& file : files) RETURN_IF_ERROR(CheckFileTarget(file.path, overwrite));
  std::vector<std::string> folders;
  const absl::Cleanup remove = [&folders] {
    for (const std::string& folder : folders) {
      RemoveTree(folder).IgnoreError();  // it only takes up space, and the next writer removes it
    }
  };
  for (const NewFile& file : files) {
    ASSIGN_OR_RETURN(folders.emplace_back(), MakeTemporary(file.path));
    // Under its own name: some writers look at its ending.
    RETURN_IF_ERROR(file.write(JoinPath(folders.back(), NameOf(file.path)))) << file.path;
  }
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string& path = files[i].path;
    const absl::Status published = PublishFile(JoinPath(folders[i], NameOf(path)), path, overwrite);
    if (published.ok()) continue;
    for (size_t k = 0; k < i && !overwrite; ++k) ::unlink(files[k].path.c_str());
    return published;
  }
  for (const NewFile& file : files) RETURN_IF_ERROR(SyncDir(ParentOf(file.path)));
  return absl::OkStatus();
}

}  // namespace mindforge
