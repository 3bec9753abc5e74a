#include "worker/formats/model_folder_writer.h"

#include <fcntl.h>
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

absl::Status Taken(const std::string& path) {
  return absl::AlreadyExistsError(
      absl::StrCat(path, " exists; choose another folder, or --overwrite"));
}

// As rename(2) with `flags` of renameat2; filesystems that know no flags rename as always.
int RenameWith(unsigned int flags, const std::string& from, const std::string& to) {
  const int renamed = ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags);
  if (renamed == 0 || (errno != EINVAL && errno != ENOSYS)) return renamed;
  return ::rename(from.c_str(), to.c_str());
}

// The rename, not an earlier look, decides whether another program's file stands there by now.
absl::Status PublishFile(const std::string& temporary, const std::string& path, bool overwrite) {
  if (RenameWith(overwrite ? 0 : RENAME_NOREPLACE, temporary, path) == 0) return absl::OkStatus();
  if (errno == EEXIST && !overwrite) return Taken(path);
  return ErrnoStatus(errno, "cannot rename to", path);
}

// rename(2) puts a folder over an empty one and refuses one that holds something; with `overwrite`
// the two change places, so that `path` is whole at every moment, and the old one is removed.
absl::Status PublishFolder(const std::string& temporary, const std::string& path, bool overwrite) {
  if (::rename(temporary.c_str(), path.c_str()) == 0) return absl::OkStatus();
  if (errno != ENOTEMPTY && errno != EEXIST) return ErrnoStatus(errno, "cannot rename to", path);
  if (!overwrite) return Taken(path);
  if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) == 0) {
    RETURN_IF_ERROR(SyncDir(ParentOf(path)));
    return RemoveTree(temporary);
  }
  RETURN_IF_ERROR(RemoveCheckpoint(path));  // no exchange here: renames it away, then deletes it
  if (::rename(temporary.c_str(), path.c_str()) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "cannot rename to", path);
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
  return SyncDir(ParentOf(path));
}

absl::Status WriteFileAtomically(const std::string& path, bool overwrite,
                                 const std::function<absl::Status(const std::string&)>& write) {
  if (PathExists(path) && !overwrite) return Taken(path);  // before the work; PublishFile decides
  ASSIGN_OR_RETURN(const std::string folder, MakeTemporary(path));
  const absl::Cleanup remove = [&folder] { RemoveTree(folder).IgnoreError(); };
  const std::string temporary = JoinPath(folder, NameOf(path));  // some writers look at its ending
  RETURN_IF_ERROR(write(temporary)) << path;
  RETURN_IF_ERROR(PublishFile(temporary, path, overwrite));
  return SyncDir(ParentOf(path));
}

}  // namespace mindforge
