// The bytes of one data file, decompressed where its name says so. It does not know lines.
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
  // A name that ends in .zst is a zstd stream (one or more frames), any other is taken as it is.
  // NOT_FOUND: no such file. INVALID_ARGUMENT: not a regular file.
  static absl::StatusOr<std::unique_ptr<ByteSource>> Open(const std::string& path);
  virtual ~ByteSource() = default;
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  // Fills up to `bytes` bytes and says how many; 0 only at the end. INVALID_ARGUMENT: no sound zstd
  // stream, or one cut off.
  virtual absl::StatusOr<size_t> Read(char* out, size_t bytes) = 0;

  // Of the file as it lies on disk.
  virtual int64_t stored_bytes_read() const = 0;

 protected:
  ByteSource() = default;
};

}  // namespace mindforge
