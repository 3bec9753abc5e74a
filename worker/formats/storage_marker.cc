#include "worker/formats/storage_marker.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/random_id.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

constexpr char kName[] = ".mindforge-storage";
constexpr size_t kMaxBytes = 4096;

}  // namespace

absl::StatusOr<std::string> ReadStorageMarker(const std::string& folder) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(JoinPath(folder, kName), kMaxBytes));
  return std::string(absl::StripAsciiWhitespace(text));
}

absl::StatusOr<std::string> EnsureStorageMarker(const std::string& folder) {
  absl::StatusOr<std::string> marker = ReadStorageMarker(folder);
  if (!absl::IsNotFound(marker.status())) return marker;
  RETURN_IF_ERROR(MakeDirs(folder));
  marker = RandomUuid();
  RETURN_IF_ERROR(WriteFileDurably(JoinPath(folder, kName), absl::StrCat(*marker, "\n")));
  return marker;
}

}  // namespace mindforge
