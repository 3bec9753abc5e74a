#include "worker/agent/devices.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/cpu_cores.h"
#include "common/logging.h"

namespace mindforge {
namespace {

constexpr int kMaxCpuSlots = 256;
constexpr int kMaxGpus = 64;
constexpr char kNoCuda[] =
    "this build has no CUDA: build with the cuda preset (`cmake --preset cuda`)";

// The training kernels of GPUs use instructions that older ones do not have.
constexpr int kOldestCapability = 8;
// What is wrong with a GPU; empty: nothing that is known.
std::string TooOld(const Hardware::Gpu& gpu) {
  if (gpu.major == 0 || gpu.major >= kOldestCapability) return "";
  return absl::StrCat("the ", gpu.model, " has compute capability ", gpu.major, ".", gpu.minor,
                      ", training on GPUs needs ", kOldestCapability, ".0 or newer");
}

// NVIDIA's management library, loaded by hand: the agent runs where there is none as well.
class Nvml {
 public:
  Nvml() : library_(dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) return;
    const auto init = Find<int (*)()>("nvmlInit_v2");
    ready_ = init != nullptr && init() == 0;
  }
  ~Nvml() {
    if (ready_) {
      if (const auto stop = Find<int (*)()>("nvmlShutdown")) stop();
    }
    if (library_ != nullptr) dlclose(library_);
  }

  std::vector<Hardware::Gpu> List() const {
    std::vector<Hardware::Gpu> gpus;
    const auto count_of = Find<int (*)(unsigned*)>("nvmlDeviceGetCount_v2");
    const auto handle_of = Find<int (*)(unsigned, void**)>("nvmlDeviceGetHandleByIndex_v2");
    const auto name_of = Find<int (*)(void*, char*, unsigned)>("nvmlDeviceGetName");
    const auto memory_of = Find<int (*)(void*, void*)>("nvmlDeviceGetMemoryInfo");
    const auto capability_of =
        Find<int (*)(void*, int*, int*)>("nvmlDeviceGetCudaComputeCapability");
    if (!ready_ || !count_of || !handle_of || !name_of || !memory_of) return gpus;
    unsigned count = 0;
    if (count_of(&count) != 0) return gpus;
    for (unsigned i = 0; i < std::min<unsigned>(count, kMaxGpus); ++i) {
      void* handle = nullptr;
      char name[96] = {};
      struct {
        unsigned long long total, free, used;
      } memory{};
      Hardware::Gpu gpu;
      if (handle_of(i, &handle) != 0 || name_of(handle, name, sizeof(name)) != 0) continue;
      memory_of(handle, &memory);
      gpu.model = name;
      gpu.memory_bytes = static_cast<int64_t>(memory.total);
      if (capability_of) capability_of(handle, &gpu.major, &gpu.minor);
      gpu.uuids = UuidsOf(handle);
      gpus.push_back(std::move(gpu));
    }
    return gpus;
  }

 private:
  std::vector<std::string> UuidsOf(void* handle) const {
    std::vector<std::string> uuids;
    const auto uuid_of = Find<int (*)(void*, char*, unsigned)>("nvmlDeviceGetUUID");
    const auto count_of = Find<int (*)(void*, unsigned*)>("nvmlDeviceGetMaxMigDeviceCount");
    const auto part_of =
        Find<int (*)(void*, unsigned, void**)>("nvmlDeviceGetMigDeviceHandleByIndex");
    const auto add = [&](void* device) {
      char uuid[96] = {};
      if (uuid_of && uuid_of(device, uuid, sizeof(uuid)) == 0) uuids.push_back(uuid);
    };
    add(handle);
    unsigned count = 0;
    if (!count_of || !part_of || count_of(handle, &count) != 0) return uuids;
    for (unsigned i = 0; i < std::min<unsigned>(count, kMaxGpus); ++i) {
      void* part = nullptr;
      if (part_of(handle, i, &part) == 0) add(part);
    }
    return uuids;
  }

  template <typename Function>
  Function Find(const char* name) const {
    return library_ == nullptr ? nullptr : reinterpret_cast<Function>(dlsym(library_, name));
  }

  void* const library_;
  bool ready_ = false;
};

void SetNumerics(const std::vector<TrainingNumerics>& all, v1::Device* device) {
  for (const TrainingNumerics& numerics : all) {
    v1::DeviceNumerics* to = device->add_numerics();
    to->set_dtype(numerics.dtype);
    to->set_name(numerics.name);
    for (const std::string& former : numerics.former_names) to->add_former_names(former);
  }
}

v1::Device CpuSlot(int index, int slots, const Hardware& hardware, int threads) {
  v1::Device device;
  device.set_id(absl::StrCat("cpu:", index));
  device.set_kind(v1::DEVICE_KIND_CPU);
  device.set_model(absl::StrCat(hardware.cpu.maker, " ", CpuColumnName(hardware.cpu.column)));
  device.set_memory_bytes(hardware.memory_bytes / slots);
  device.set_threads(threads > 0 ? threads : std::max(1, hardware.cores / slots));
  device.set_signature(LegacyCpuSignature(hardware.cpu, device.threads()));
  SetNumerics(CpuTrainingNumerics(hardware.cpu, device.threads()), &device);
  return device;
}

v1::Device CudaDevice(int index, const Hardware::Gpu& gpu, int threads) {
  v1::Device device;
  device.set_id(absl::StrCat("cuda:", index));
  device.set_kind(v1::DEVICE_KIND_CUDA);
  device.set_model(gpu.model);
  device.set_memory_bytes(gpu.memory_bytes);
  device.set_threads(std::max(1, threads));
  const GpuFacts facts{gpu.model, gpu.major, gpu.minor};
  device.set_signature(LegacyCudaSignature(facts));
  SetNumerics(CudaTrainingNumerics(facts), &device);
  return device;
}

// What one entry of CUDA_VISIBLE_DEVICES means: an index, or the beginning of a UUID. Null when
// there is no such device.
const Hardware::Gpu* FindVisible(const std::vector<Hardware::Gpu>& all, absl::string_view entry) {
  size_t index = 0;
  if (absl::SimpleAtoi(entry, &index)) return index < all.size() ? &all[index] : nullptr;
  if (!absl::StartsWith(entry, "GPU-") && !absl::StartsWith(entry, "MIG-")) return nullptr;
  for (const Hardware::Gpu& gpu : all) {
    for (const std::string& uuid : gpu.uuids) {
      if (absl::StartsWith(uuid, entry)) return &gpu;
    }
  }
  // Where the driver does not tell them, and parts have names of several forms, all are taken to be
  // of one model.
  const bool known = absl::StartsWith(entry, "GPU-") && !all.empty() && !all.front().uuids.empty();
  return all.empty() || known ? nullptr : &all.front();
}

}  // namespace

std::vector<Hardware::Gpu> VisibleGpus(const std::vector<Hardware::Gpu>& all, const char* visible) {
  if (visible == nullptr) return all;
  std::vector<Hardware::Gpu> gpus;
  for (const auto& part : absl::StrSplit(visible, ',')) {
    const absl::string_view entry = absl::StripAsciiWhitespace(part);
    const Hardware::Gpu* const gpu = FindVisible(all, entry);
    // As CUDA does: what follows anything else (-1, say) is not visible either.
    if (gpu == nullptr) break;
    gpus.push_back(*gpu);
  }
  return gpus;
}

absl::StatusOr<DeviceSpec> ParseDeviceSpec(const std::string& text) {
  const auto refuse = [&](const std::string& why) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "': ", why, "; write auto, cpu:N (N slots) or cuda:0,cuda:1"));
  };
  if (text == "auto") return DeviceSpec{.automatic = true};
  DeviceSpec spec;
  std::set<int> seen;
  for (const auto& part : absl::StrSplit(text, ',')) {
    const std::string entry(absl::StripAsciiWhitespace(part));
    const size_t colon = entry.find(':');
    int number = 0;
    if (colon == std::string::npos || !absl::SimpleAtoi(entry.substr(colon + 1), &number)) {
      return refuse(absl::StrCat("'", entry, "' is no device"));
    }
    const std::string kind = entry.substr(0, colon);
    if (kind == "cpu") {
      if (spec.cpu_slots > 0) return refuse("cpu is there twice");
      if (number < 1 || number > kMaxCpuSlots) {
        return refuse(absl::StrCat("cpu slots must be from 1 to ", kMaxCpuSlots));
      }
      spec.cpu_slots = number;
    } else if (kind == "cuda") {
      if (number < 0 || number >= kMaxGpus) return refuse("no such GPU");
      if (!seen.insert(number).second) return refuse(absl::StrCat(entry, " is there twice"));
      spec.cuda_indices.push_back(number);
    } else {
      return refuse(absl::StrCat("'", kind, "' is no kind of device"));
    }
  }
  return spec;
}

Hardware FindHardware() {
  Hardware hardware;
  hardware.cpu = FindCpuFacts();
  hardware.cores = UsableCores();
  hardware.memory_bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
  hardware.gpus = VisibleGpus(Nvml().List(), ::getenv("CUDA_VISIBLE_DEVICES"));
#ifndef MINDFORGE_CUDA
  hardware.cuda_build = false;
#endif
  return hardware;
}

absl::StatusOr<std::vector<v1::Device>> MakeDevices(const DeviceSpec& spec,
                                                    const Hardware& hardware, int threads) {
  DeviceSpec wanted = spec;
  if (spec.automatic) {
    for (size_t i = 0; i < hardware.gpus.size() && hardware.cuda_build; ++i) {
      const std::string too_old = TooOld(hardware.gpus[i]);
      if (too_old.empty()) {
        wanted.cuda_indices.push_back(static_cast<int>(i));
      } else {
        MF_LOG(WARNING) << "cuda:" << i << " is not offered: " << too_old;
      }
    }
    wanted.cpu_slots = wanted.cuda_indices.empty() ? 1 : 0;
    if (!hardware.gpus.empty() && !hardware.cuda_build) {
      MF_LOG(WARNING) << "this machine has " << hardware.gpus.size()
                      << " GPUs (the first: " << hardware.gpus.front().model << "), but " << kNoCuda
                      << "; a CPU slot is offered instead";
    }
  } else if (!wanted.cuda_indices.empty() && !hardware.cuda_build) {
    return absl::FailedPreconditionError(
        absl::StrCat("--devices names cuda:", wanted.cuda_indices.front(), ", but ", kNoCuda,
                     ", or give --devices cpu:N"));
  }
  std::vector<v1::Device> devices;
  for (const int index : wanted.cuda_indices) {
    if (index >= static_cast<int>(hardware.gpus.size())) {
      return absl::NotFoundError(
          absl::StrCat("--devices names cuda:", index, ", but this machine shows ",
                       hardware.gpus.size(), hardware.gpus.size() == 1 ? " GPU" : " GPUs",
                       " (nvidia-smi lists them; CUDA_VISIBLE_DEVICES may hide some)"));
    }
    const Hardware::Gpu& gpu = hardware.gpus[static_cast<size_t>(index)];
    if (const std::string too_old = TooOld(gpu); !too_old.empty()) {
      return absl::FailedPreconditionError(absl::StrCat("--devices names cuda:", index, ", but ",
                                                        too_old, ": give --devices cpu:N"));
    }
    devices.push_back(CudaDevice(index, gpu, threads));
  }
  for (int i = 0; i < wanted.cpu_slots; ++i) {
    devices.push_back(CpuSlot(i, wanted.cpu_slots, hardware, threads));
  }
  return devices;
}

}  // namespace mindforge
