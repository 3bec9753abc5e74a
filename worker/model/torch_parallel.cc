#include "worker/model/torch_parallel.h"

#include <ATen/Parallel.h>

namespace mindforge {

Parallel TorchParallel() {
  Parallel parallel;
  parallel.run = [](void*, int64_t count, Parallel::Task task, void* context) {
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) task(context, i);
    });
  };
  return parallel;
}

}  // namespace mindforge
