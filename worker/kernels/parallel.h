// How kernels run on several threads without knowing whose threads they are. Torch-free.
#pragma once

#include <stdint.h>

#include <type_traits>

namespace mindforge {

// A thread pool as seen by kernels: run(self, n, task, context) calls task(context, i) once for
// each 0 <= i < n and returns when all are done. Kernels cut their work into tasks whose number
// depends on the shapes alone, so their bits do not depend on the number of threads.
struct Parallel {
  using Task = void (*)(void* context, int64_t index);
  void (*run)(void* self, int64_t count, Task task, void* context) = nullptr;
  void* self = nullptr;
  void* stream = nullptr;  // device columns: the cudaStream_t that work is enqueued on

  // Calls f(i) for each 0 <= i < count.
  template <typename Function>
  void For(int64_t count, Function&& f) const {
    if (run == nullptr) {
      for (int64_t i = 0; i < count; ++i) f(i);
      return;
    }
    run(
        self, count,
        [](void* context, int64_t i) {
          (*static_cast<std::remove_reference_t<Function>*>(context))(i);
        },
        const_cast<void*>(static_cast<const void*>(&f)));
  }
};

}  // namespace mindforge
