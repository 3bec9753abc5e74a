// Arrays that the host makes, where a column's kernels read them: in place on the CPU; on a GPU in
// one buffer that they are copied to together, through pinned memory, without waiting for it.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace mindforge {

// Not thread-safe.
class DeviceArrays {
 public:
  // Send lets `view` point to the kernels' copy of `host`, which must not change before; null when
  // it is empty. Both are borrowed until then.
  template <typename V>
  void Add(const std::vector<V>& host, const V** view) {
    parts_.push_back({host.data(), static_cast<int64_t>(host.size() * sizeof(V)),
                      [view](const void* at) { *view = static_cast<const V*>(at); }});
  }

  // Sends what was added since the last time. The views hold until the next; on the CPU as long as
  // the host's arrays. What was enqueued before still reads what was sent before.
  void Send(c10::Device device);

 private:
  struct Part {
    const void* host;
    int64_t bytes;
    std::function<void(const void*)> place;
  };
  std::vector<Part> parts_;
  at::Tensor buffer_;  // uint8, on the GPU
};

}  // namespace mindforge
