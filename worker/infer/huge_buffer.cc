#include "worker/infer/huge_buffer.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace mindforge {

absl::StatusOr<HugeBuffer> HugeBuffer::Allocate(int64_t bytes) {
  HugeBuffer buffer;
  if (bytes == 0) return buffer;
  void* data =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, /*offset=*/0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for ", bytes, " bytes of weights or cache (", std::strerror(errno),
                     "); use fewer slots, a shorter context or bfloat16"));
  }
  (void)madvise(data, bytes, MADV_HUGEPAGE);  // a hint: small pages work too
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.bytes_ = bytes;
  return buffer;
}

HugeBuffer::~HugeBuffer() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

}  // namespace mindforge
