// A rank's device, made deterministic: what must be set before the first tensor, and the few
// questions asked of it. Hides the difference between CPU and CUDA.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "worker/train/train_options.h"

namespace mindforge {

// Threads, deterministic kernels, no TF32. Once a process, before any tensor.
// UNAVAILABLE: no such device, or a build without CUDA.
absl::StatusOr<c10::Device> SetUpDevice(const TrainDevice& device);

// Waits until the device has done all that was enqueued. Nothing to wait for on the CPU.
void Synchronize(c10::Device device);

// Memory in use: the allocator's on CUDA, the process's on the CPU.
int64_t DeviceMemoryBytes(c10::Device device);

}  // namespace mindforge
