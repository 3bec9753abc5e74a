#include "tests/bench/kernel_times.h"

#include <cstdio>
#ifdef MINDFORGE_CUDA
#include <cupti.h>
#include <cxxabi.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>
#endif

namespace mindforge::bench {
#ifdef MINDFORGE_CUDA
namespace {

struct Work {
  int64_t calls = 0;
  int64_t nanoseconds = 0;
};

// CUPTI knows only functions, so what they find lies here.
struct Found {
  std::map<std::string, Work> work;
  uint64_t first = UINT64_MAX;
  uint64_t last = 0;

  void Add(const std::string& name, uint64_t start, uint64_t end) {
    Work& one = work[name];
    ++one.calls;
    one.nanoseconds += static_cast<int64_t>(end - start);
    first = std::min(first, start);
    last = std::max(last, end);
  }
};
Found* found = nullptr;

constexpr size_t kBufferBytes = 8 << 20;

std::string Demangled(const char* name) {
  int status = 0;
  char* plain = abi::__cxa_demangle(name, nullptr, nullptr, &status);
  std::string result = status == 0 ? plain : name;
  std::free(plain);
  return result.substr(0, 110);
}

void CUPTIAPI OfferBuffer(uint8_t** buffer, size_t* size, size_t* records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *size = kBufferBytes;
  *records = 0;
}

void CUPTIAPI TakeBuffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      // Later versions only append to the record.
      const auto* kernel = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
      found->Add(Demangled(kernel->name), kernel->start, kernel->end);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const auto* copy = reinterpret_cast<const CUpti_ActivityMemcpy6*>(record);
      found->Add("memcpy", copy->start, copy->end);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      const auto* set = reinterpret_cast<const CUpti_ActivityMemset4*>(record);
      found->Add("memset", set->start, set->end);
    }
  }
  std::free(buffer);
}

}  // namespace

void PrintKernelTimes(const std::function<void()>& step) {
  Found all;
  found = &all;
  bool ready = cuptiActivityRegisterCallbacks(OfferBuffer, TakeBuffer) == CUPTI_SUCCESS;
  for (const CUpti_ActivityKind kind : {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                        CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET}) {
    ready = ready && cuptiActivityEnable(kind) == CUPTI_SUCCESS;
  }
  if (!ready) {
    std::fprintf(stderr, "the driver tells no kernels' times\n");
    return;
  }
  step();
  cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  std::vector<std::pair<std::string, Work>> sorted(all.work.begin(), all.work.end());
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
    return a.second.nanoseconds > b.second.nanoseconds;
  });
  int64_t total = 0;
  for (const auto& [name, work] : sorted) {
    total += work.nanoseconds;
    std::fprintf(stderr, "%9.3f ms %5lld x %s\n", static_cast<double>(work.nanoseconds) / 1e6,
                 static_cast<long long>(work.calls), name.c_str());
  }
  std::fprintf(stderr, "%9.3f ms in kernels, %.3f ms from first to last\n",
               static_cast<double>(total) / 1e6, static_cast<double>(all.last - all.first) / 1e6);
}
#else
void PrintKernelTimes(const std::function<void()>&) {
  std::fprintf(stderr, "this build has no CUDA\n");
}
#endif
}  // namespace mindforge::bench
