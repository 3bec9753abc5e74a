// Names the arithmetic of training on a device, which a job is pinned to at its first start. Equal
// names give equal bits, whatever the build, and a change of bits is another name: tests/kernels
// and tests/train hash small runs under each name and fail when a hash moves alone.
//
// Torch-free and kernel-free, so that the agent can say what its trainers will compute with; each
// trainer compares with what it really has (worker/train/numerics_check.h).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mindforge {

// The columns of CPU training kernels, as worker/kernels' CpuIsa. kBaseline elsewhere than on
// x86-64 too.
enum class CpuColumn { kBaseline, kAvx2, kAvx512, kAvx512Bf16 };

// What decides bits on a processor besides our kernels' version.
struct CpuFacts {
  std::string maker;  // "AuthenticAMD": libraries and one product of ours choose by it
  CpuColumn column = CpuColumn::kBaseline;
  bool has_amx = false;  // the library multiplies bfloat16 in tiles
};
CpuFacts FindCpuFacts();

// "avx512-bf16".
const char* CpuColumnName(CpuColumn column);

struct GpuFacts {
  std::string model;  // "NVIDIA H200"
  int major = 0;      // compute capability
  int minor = 0;
};

// The name of one training.dtype's arithmetic on one device; as v1::DeviceNumerics.
struct TrainingNumerics {
  std::string dtype;
  std::string name;
  std::vector<std::string> former_names;  // a `*` stands for any number
  friend bool operator==(const TrainingNumerics&, const TrainingNumerics&) = default;
};

// One for each dtype that the device trains with. `threads` are in the name only where they decide
// bits.
std::vector<TrainingNumerics> CpuTrainingNumerics(const CpuFacts& cpu, int threads);
std::vector<TrainingNumerics> CudaTrainingNumerics(const GpuFacts& gpu);

// True when a job pinned to `pinned` has the same bits with these numerics.
bool SameBits(const TrainingNumerics& numerics, std::string_view pinned);

// What builds before numerics had names called a device: with the build's version and the number of
// threads. Told to coordinators of those builds.
std::string LegacyCpuSignature(const CpuFacts& cpu, int threads);
std::string LegacyCudaSignature(const GpuFacts& gpu);

// The library's version that is in the names; worker/train checks it against the library's headers.
extern const char kNumericsLibTorch[];

// "GNU-14": the compiler, where it is not the one that the kernels' recorded bits are of; else
// empty.
extern const char kKernelBuild[];

}  // namespace mindforge
