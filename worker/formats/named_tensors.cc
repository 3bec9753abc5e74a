#include "worker/formats/named_tensors.h"

#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/durable_file.h"
#include "common/git_lfs.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/formats/json_file.h"
#include "worker/formats/pth.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

constexpr size_t kHeadBytes = 64;
constexpr size_t kMagicBytes = 9;

// The first bytes of a file; fewer when it is shorter or cannot be read.
std::string HeadOf(const std::string& path) {
  std::string head(kHeadBytes, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(head.data(), kHeadBytes);
  head.resize(static_cast<size_t>(file.gcount()));
  return head;
}

// The shards that an index names.
absl::StatusOr<std::set<std::string>> ShardsOf(const std::string& index_path) {
  ASSIGN_OR_RETURN(const Json index, ReadJsonFile(index_path));
  const Json map = index.is_object() ? index.value("weight_map", Json()) : Json();
  if (!map.is_object() || map.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(index_path, ": `weight_map` is missing"));
  }
  std::set<std::string> names;
  for (const auto& [tensor, shard] : map.items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : "";
    if (name.empty() || name.find('/') != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat(index_path, ": `weight_map` of \"", tensor, "\" is no file name"));
    }
    names.insert(name);
  }
  return names;
}

}  // namespace

bool IsFolder(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

absl::StatusOr<std::unique_ptr<NamedTensors>> NamedTensors::Open(const std::string& path) {
  std::unique_ptr<NamedTensors> named(new NamedTensors(path));
  if (IsFolder(path)) {
    RETURN_IF_ERROR(named->AddFolder());
  } else {
    RETURN_IF_ERROR(named->AddFile(path));
  }
  RETURN_IF_ERROR(named->Name()) << path;
  return named;
}

const TensorView* NamedTensors::Find(std::string_view name) const {
  const auto it = index_.find(std::string(name));
  return it == index_.end() ? nullptr : it->second;
}

absl::Status NamedTensors::Name() {
  ASSIGN_OR_RETURN(std::vector<TensorView> plain, PlainTensors(found_));
  found_.clear();
  for (TensorView& view : plain) {
    tensors_.push_back(std::move(view));
    index_.emplace(tensors_.back().name, &tensors_.back());
  }
  return absl::OkStatus();
}

absl::Status NamedTensors::AddSafetensors(const std::string& file) {
  ASSIGN_OR_RETURN(std::shared_ptr<const SafetensorsFile> opened, SafetensorsFile::Open(file));
  found_.insert(found_.end(), opened->tensors().begin(), opened->tensors().end());
  owners_.push_back(std::move(opened));
  return absl::OkStatus();
}

absl::Status NamedTensors::AddFile(const std::string& file) {
  const std::string head = HeadOf(file);
  if (IsGitLfsPointer(head)) return GitLfsPointerError(file);
  const std::string_view magic = std::string_view(head).substr(0, kMagicBytes);
  if (magic.starts_with("GGUF")) {
    return absl::InvalidArgumentError(absl::StrCat(
        file,
        " is a GGUF file; turn it into a model folder first: mindforge checkpoint import "
        "--from ",
        file, " --out DIR"));
  }
  // A safetensors file begins with its header's length, whose bytes may be those of another kind of
  // file: what follows them decides.
  const bool safetensors = magic.size() == kMagicBytes && magic.back() == '{';
  const bool torch = magic.starts_with("PK") || magic.starts_with("\x80");
  if (safetensors || !torch) return AddSafetensors(file);
  ASSIGN_OR_RETURN(std::shared_ptr<const PthFile> opened, PthFile::Open(file));
  ASSIGN_OR_RETURN(const std::vector<TensorView> views, opened->StateDict());
  found_.insert(found_.end(), views.begin(), views.end());
  owners_.push_back(std::move(opened));
  return absl::OkStatus();
}

absl::Status NamedTensors::AddFolder() {
  for (const char* name : {"model.safetensors", "pytorch_model.bin"}) {
    const std::string file = JoinPath(path_, name);
    if (PathExists(file)) return AddFile(file);
    const std::string index = file + ".index.json";
    if (!PathExists(index)) continue;
    ASSIGN_OR_RETURN(const std::set<std::string> shards, ShardsOf(index));
    for (const std::string& shard : shards) RETURN_IF_ERROR(AddFile(JoinPath(path_, shard)));
    return absl::OkStatus();
  }
  return absl::NotFoundError(
      absl::StrCat(path_,
                   " has no model.safetensors; name a Hugging Face folder with safetensors "
                   "weights, or a checkpoint folder"));
}

}  // namespace mindforge
