// TensorBoard's event files: TFRecord frames of `tensorflow.Event` messages, the few kinds that
// charts need, encoded by hand. It does not know jobs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace mindforge {

// Each returns a whole frame to be appended to a file.

// The first event of a file.
std::string EncodeFileVersion(absl::Time at);

// The values of one step, by tag.
std::string EncodeScalars(absl::Time at, int64_t step,
                          const std::vector<std::pair<std::string_view, double>>& values);

// A note. `number` comes back from ScanEventFile and is shown nowhere. REQUIRES: number > 0.
std::string EncodeText(absl::Time at, int64_t step, std::string_view tag, std::string_view text,
                       int64_t number);

// What a file of ours holds.
struct EventFileEnd {
  int64_t bytes = 0;        // of whole, sound frames; a torn tail lies behind
  int64_t last_step = 0;    // with scalars; 0: none
  int64_t last_number = 0;  // of a note; 0: none
};

// Checks the checksum of every frame up to the first that is not whole. NOT_FOUND: no such file.
absl::StatusOr<EventFileEnd> ScanEventFile(const std::string& path);

}  // namespace mindforge
