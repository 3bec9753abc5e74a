// Zeroed memory on huge pages where the system gives them: weights are read end to end for every
// token, and small pages would cost a walk each 4 KiB.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"

namespace mindforge {

// Owns an anonymous mapping. Movable.
class HugeBuffer {
 public:
  // RESOURCE_EXHAUSTED: the system has not that much.
  static absl::StatusOr<HugeBuffer> Allocate(int64_t bytes);

  HugeBuffer() = default;
  ~HugeBuffer();
  HugeBuffer(HugeBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  HugeBuffer& operator=(HugeBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace mindforge
