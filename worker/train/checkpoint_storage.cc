#include "worker/train/checkpoint_storage.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/net.h"
#include "common/status_macros.h"
#include "worker/dist/step_timeout.h"
#include "worker/formats/checkpoint_names.h"
#include "worker/formats/storage_marker.h"
#include "worker/train/failure.h"

namespace mindforge {
namespace {

constexpr uint32_t kMarkerTag = 20;
// Travels with zeros behind it.
using Marker = std::array<char, 64>;

Marker MarkerOf(std::string_view text) {
  Marker marker{};
  std::copy_n(text.begin(), std::min(text.size(), marker.size() - 1), marker.begin());
  return marker;
}

}  // namespace

absl::StatusOr<std::string> OpenCheckpointStorage(const TrainOptions& options) {
  const std::vector<CheckpointFolder>& points = options.resume_points;
  const std::string& dir = options.checkpoint_dir;
  const bool visible =
      points.empty() || std::any_of(points.begin(), points.end(), [](const auto& point) {
        return PathExists(point.path) || WasQuarantined(point.path);
      });
  if (!visible) {
    return WorkerUnfit(absl::StrCat("checkpoint.dir: none of the job's ", points.size(),
                                    " newest checkpoints is to be seen on ", HostName(),
                                    " (the newest is ", points.front().path, "); ",
                                    ReadStorageMarker(dir).ok()
                                        ? "put them back there"
                                        : "mount the storage of checkpoint.dir on this worker",
                                    ", and the job goes on"));
  }
  absl::StatusOr<std::string> marker = EnsureStorageMarker(dir);
  if (marker.ok()) return marker;
  // A job that has begun could use it elsewhere or before, whether or not it came to a checkpoint.
  const bool begun = !points.empty() || !options.dataset_digest.empty();
  const absl::Status refused = BlameField(marker.status(), "checkpoint.dir");
  if (!begun && ClassifyFailure(refused) == FailureClass::kUser) return refused;
  return WorkerUnfit(absl::StrCat("checkpoint.dir: ", dir, " cannot be used on ", HostName(), ": ",
                                  std::string(marker.status().message())));
}

absl::Status CheckSharedStorage(const TrainOptions& options, const std::string& marker,
                                ProcessGroup& group) {
  Marker expected = MarkerOf(marker);
  RETURN_IF_ERROR(
      group.BroadcastHost(expected.data(), expected.size(), kMarkerTag, StepTimeout::kCeiling));
  if (options.rank == 0) return absl::OkStatus();
  const absl::StatusOr<std::string> mine = ReadStorageMarker(options.checkpoint_dir);
  if (mine.ok() && MarkerOf(*mine) == expected) return absl::OkStatus();
  return WorkerUnfit(
      absl::StrCat("checkpoint.dir: ", options.checkpoint_dir, " on ", HostName(),
                   mine.ok() ? " is another folder than rank 0's"
                             : absl::StrCat(" does not have rank 0's marker (",
                                            std::string(mine.status().message()), ")"),
                   "; use storage that all workers of the job share, mounted at the same place"));
}

}  // namespace mindforge
