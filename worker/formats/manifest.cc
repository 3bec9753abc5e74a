#include "worker/formats/manifest.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/durable_file.h"
#include "common/json_parse.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/formats/digest_file.h"
#include "xxhash.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

constexpr int kFormat = 1;
constexpr int kIndent = 2;

// Of the list of files in its canonical spelling, so that no bit of it can change unseen.
std::string DigestOfList(const Json& files) {
  const std::string text = files.dump();
  return HexDigest(XXH3_64bits(text.data(), text.size()));
}

absl::Status Bad(const std::string& what) {
  return absl::DataLossError(absl::StrCat(kManifestName, ": ", what));
}

// A file of the folder, perhaps in a folder inside it, and none outside.
bool IsInside(const std::string& name) {
  for (const absl::string_view part : absl::StrSplit(name, '/')) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return true;
}

}  // namespace

std::string ManifestToText(const Manifest& manifest) {
  Json files = Json::object();
  for (const auto& [name, digest] : manifest) {
    files[name] = {{"bytes", digest.bytes}, {"xxh3", HexDigest(digest.xxh3)}};
  }
  const Json root = {{"format", kFormat}, {"digest", DigestOfList(files)}, {"files", files}};
  return root.dump(kIndent) + "\n";
}

absl::StatusOr<Manifest> ManifestFromText(const std::string& text) {
  const absl::StatusOr<Json> root = ParseJson(text, kManifestName);
  if (!root.ok()) return absl::DataLossError(root.status().message());
  if (!root->is_object() || root->value("format", Json()) != kFormat) {
    return Bad("its format is not 1");
  }
  const Json files = root->value("files", Json());
  if (!files.is_object() || root->value("digest", Json()) != DigestOfList(files)) {
    return Bad("its list of files does not have the digest that it states");
  }
  Manifest manifest;
  for (const auto& [name, entry] : files.items()) {
    const bool typed = entry.is_object() && entry.value("bytes", Json()).is_number_integer() &&
                       entry.value("xxh3", Json()).is_string();
    FileDigest digest;
    if (!typed || !IsInside(name) ||
        !absl::SimpleHexAtoi(entry["xxh3"].get<std::string>(), &digest.xxh3)) {
      return Bad(absl::StrCat("the entry of \"", name, "\" is not sound"));
    }
    digest.bytes = entry["bytes"].get<int64_t>();
    manifest.emplace(name, digest);
  }
  return manifest;
}

absl::Status CheckFiles(const std::string& folder, const Manifest& manifest) {
  for (const auto& [name, expected] : manifest) {
    const absl::StatusOr<FileDigest> found = DigestOfFile(JoinPath(folder, name));
    if (absl::IsNotFound(found.status())) {
      return absl::DataLossError(absl::StrCat(name, " is missing"));
    }
    RETURN_IF_ERROR(found.status());
    if (found->bytes != expected.bytes) {
      return absl::DataLossError(
          absl::StrCat(name, " has ", found->bytes, " bytes, written were ", expected.bytes));
    }
    if (found->xxh3 != expected.xxh3) {
      return absl::DataLossError(absl::StrCat(name, " has XXH3 ", HexDigest(found->xxh3),
                                              ", written was ", HexDigest(expected.xxh3)));
    }
  }
  return absl::OkStatus();
}

}  // namespace mindforge
