#include "worker/train/device_setup.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "worker/train/failure.h"
#ifdef MINDFORGE_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#endif

namespace mindforge {
namespace {

absl::StatusOr<c10::Device> SetUpCuda(int index) {
#ifdef MINDFORGE_CUDA
  const int count = c10::cuda::device_count();
  if (index >= count) {
    return absl::UnavailableError(absl::StrCat("device cuda:", index,
                                               " is not there: this process sees ", count,
                                               " GPUs; check the driver and CUDA_VISIBLE_DEVICES"));
  }
  at::globalContext().lazyInitDevice(at::kCUDA);
  c10::cuda::set_device(static_cast<c10::DeviceIndex>(index));
  return c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index));
#else
  return absl::UnavailableError(absl::StrCat(
      "device cuda:", index, " needs a build with CUDA (the cuda preset); this one has none"));
#endif
}

}  // namespace

absl::StatusOr<c10::Device> SetUpDevice(const TrainDevice& device) {
  // cuBLAS is deterministic only with a workspace of fixed size; it is read at the first use.
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 1);
  // CUDA numbers the GPUs as the driver's tools do, and so as the agent names them.
  setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 1);
  try {
    at::set_num_threads(std::max(1, device.threads));
    at::set_num_interop_threads(1);
    at::Context& context = at::globalContext();
    context.setDeterministicAlgorithms(true, /*warn_only=*/false);
    // Filling fresh memory would cost a pass over every buffer and none is read before it is set.
    context.setDeterministicFillUninitializedMemory(false);
    context.setBenchmarkCuDNN(false);
    context.setAllowTF32CuBLAS(false);
    context.setAllowTF32CuDNN(false);
    // Per thread and not passed on to worker threads: off is the one setting all threads share.
    context.setFlushDenormal(false);
    if (device.cuda_index < 0) return c10::Device(c10::DeviceType::CPU);
    return SetUpCuda(device.cuda_index);
  } catch (const std::exception& error) {
    return StatusOfException(error, "setting the device up");
  }
}

void Synchronize(c10::Device device) {
  if (device.is_cpu()) return;
  const c10::impl::VirtualGuardImpl guard(device.type());
  guard.getStream(device).synchronize();
}

int64_t DeviceMemoryBytes(c10::Device device) {
#ifdef MINDFORGE_CUDA
  if (device.is_cuda()) {
    return c10::cuda::CUDACachingAllocator::getDeviceStats(device.index())
        .reserved_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)]
        .current;
  }
#endif
  std::ifstream file("/proc/self/statm");
  int64_t all = 0, resident = 0;
  file >> all >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace mindforge
