// The bytes of one data file, decompressed where they are gzip or zstd. It does not know lines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace mindforge {

// A file read from front to back. One thread at a time.
class ByteSource {
 public:
  // The first bytes decide, whatever the file is called: gzip (one or more members) and zstd (one
  // or more frames) are decompressed, all else is taken as it is. NOT_FOUND: no such file.
  // INVALID_ARGUMENT: not a regular file, or one named .gz or .zst that is neither.
  static absl::StatusOr<std::unique_ptr<ByteSource>> Open(const std::string& path);
  virtual ~ByteSource() = default;
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  // Fills up to `bytes` bytes and says how many; 0 only at the end. INVALID_ARGUMENT: no sound
  // stream, or one cut off.
  virtual absl::StatusOr<size_t> Read(char* out, size_t bytes) = 0;

  // Of the file as it lies on disk.
  virtual int64_t stored_bytes_read() const = 0;

 protected:
  ByteSource() = default;
};

}  // namespace mindforge
