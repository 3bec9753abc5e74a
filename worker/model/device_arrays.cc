#include "worker/model/device_arrays.h"

#include <ATen/ops/empty.h>

#include <cstring>

namespace mindforge {
namespace {

// Each array begins at a multiple of this.
constexpr int64_t kAlignment = 256;

int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

void DeviceArrays::Send(c10::Device device) {
  if (device.is_cpu()) {
    for (const Part& part : parts_) part.place(part.bytes == 0 ? nullptr : part.host);
    parts_.clear();
    return;
  }
  int64_t size = 0;
  for (const Part& part : parts_) size += Aligned(part.bytes);
  const auto bytes = at::TensorOptions().dtype(at::kByte);
  if (!buffer_.defined() || buffer_.numel() < size) {
    buffer_ = at::empty({size}, bytes.device(device));
  }
  // LibTorch lends its pinned memory again only when the copy out of it is done, so two or three
  // blocks take turns and nobody waits.
  const at::Tensor pinned = at::empty({size}, bytes.pinned_memory(true));
  auto* from = static_cast<char*>(pinned.mutable_data_ptr());
  const auto* to = static_cast<const char*>(buffer_.const_data_ptr());
  int64_t offset = 0;
  for (const Part& part : parts_) {
    if (part.bytes > 0) std::memcpy(from + offset, part.host, part.bytes);
    part.place(part.bytes == 0 ? nullptr : to + offset);
    offset += Aligned(part.bytes);
  }
  buffer_.narrow(0, 0, size).copy_(pinned, /*non_blocking=*/true);
  parts_.clear();
}

}  // namespace mindforge
