// The devices of this machine that can hold a rank: CPU slots and GPUs, found without LibTorch.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/training_numerics.h"
#include "mindforge/v1/types.pb.h"

namespace mindforge {

// What `--devices` says.
struct DeviceSpec {
  bool automatic = false;
  int cpu_slots = 0;
  std::vector<int> cuda_indices;
  friend bool operator==(const DeviceSpec&, const DeviceSpec&) = default;
};

// "auto", "cpu:N", "cuda:0,cuda:1", or a mixture. INVALID_ARGUMENT says what is wrong.
absl::StatusOr<DeviceSpec> ParseDeviceSpec(const std::string& text);

// What a machine has; gathered once, given by hand in tests.
struct Hardware {
  struct Gpu {
    std::string model;
    int64_t memory_bytes = 0;
    int major = 0;  // compute capability
    int minor = 0;
    // "GPU-…", then one "MIG-…" for each part that it is divided into; empty when not known.
    std::vector<std::string> uuids;
  };
  CpuFacts cpu;
  int cores = 1;
  int64_t memory_bytes = 0;
  std::vector<Gpu> gpus;
  bool cuda_build = true;  // the trainers can use them
};
Hardware FindHardware();

// Those of `all` that CUDA_VISIBLE_DEVICES (null: not set) leaves, as CUDA will number them.
std::vector<Hardware::Gpu> VisibleGpus(const std::vector<Hardware::Gpu>& all, const char* visible);

// The devices that `spec` names on `hardware`; auto is every GPU that the trainers can use, else
// one CPU slot. Threads of a CPU slot: `threads`, or the cores over the slots when 0. NOT_FOUND
// names a GPU that is not there, FAILED_PRECONDITION one that this build cannot use.
absl::StatusOr<std::vector<v1::Device>> MakeDevices(const DeviceSpec& spec,
                                                    const Hardware& hardware, int threads);

}  // namespace mindforge
