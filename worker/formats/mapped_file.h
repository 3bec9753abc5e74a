// A regular file mapped read-only. Knows nothing of what is in it.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace mindforge {

// Immutable; the bytes live as long as the object.
class MappedFile {
 public:
  // NOT_FOUND: no such file. DATA_LOSS: no regular file. An empty file is mapped as no bytes.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::string_view bytes() const { return {data_, size_}; }

 private:
  MappedFile(std::string path, const char* data, size_t size);

  const std::string path_;
  const char* const data_;
  const size_t size_;
};

}  // namespace mindforge
