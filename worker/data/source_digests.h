// The digest of a dataset's files, found without reading those that are as they were. Beside the
// token caches lies a record: each file's size, times and inode when it was read, and its digest.
// It does not know tokens. The surprising choice: a file that changed a moment before it was read
// is not recorded, since a second change could leave the same times.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/data/data_files.h"
#include "worker/data/progress_meter.h"

namespace mindforge {

struct SourceDigestOptions {
  std::string cache_dir;      // where records are; nothing is kept when it cannot be written
  ProgressFunction progress;  // kReading, kWaiting
  // How long a file must have been as it is for its times to vouch for it.
  absl::Duration settled_after = absl::Seconds(5);
};

// CombineDigests of the XXH3-64 of each file's (decompressed) bytes. One process of a host reads,
// others wait for it; later ones read only what has another size, time or inode since. Errors as
// ByteSource. UNAVAILABLE: a file changed while it was read.
absl::StatusOr<uint64_t> DigestOfFiles(const std::vector<DataFile>& files,
                                       const SourceDigestOptions& options);

}  // namespace mindforge
