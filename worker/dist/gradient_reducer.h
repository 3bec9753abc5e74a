// Adds the gradients of a step's microbatches over all ranks in the canonical tree
// (reduction_tree.h). It does not know the model: a gradient is a flat buffer. Inside a rank the
// partials are kept as a binary counter keeps its digits, so a run of k microbatches holds about
// log2(k) buffers; between ranks each buffer is cut into chunks, the owner of a chunk adds the
// partials of all ranks in the tree's order and gives the sum to all. The loss rides behind the
// gradient in the same buffer and so is summed in the same order.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/dist/process_group.h"
#include "worker/dist/reduction_tree.h"

namespace mindforge {

// One rank's side. Not thread-safe. Buffers are allocated when first needed and kept.
class GradientReducer {
 public:
  // Borrows `group`, which must outlive it.
  GradientReducer(int64_t elements, c10::Device device, ProcessGroup& group);

  // Starts a step of `microbatches`; returns the run that this rank computes.
  MicrobatchRange BeginStep(int64_t microbatches);

  // Where the next microbatch of the run puts its gradient: float32 [elements] on the device, with
  // any content. REQUIRES: fewer than the run's microbatches were added.
  at::Tensor NextGradient();

  // The buffer of NextGradient is filled; `loss` is its float32 scalar. Adds what is complete.
  void Add(const at::Tensor& loss);

  // The whole step's sums; views into buffers that stay as they are until the next BeginStep.
  struct Sum {
    at::Tensor gradient;  // float32 [elements]
    at::Tensor loss;      // float32 scalar
  };
  // Exchanges and adds the partials of all ranks. REQUIRES: the whole run was added. Errors as
  // ProcessGroup's; the step is lost then.
  absl::StatusOr<Sum> Finish(absl::Duration timeout);

 private:
  struct Partial {
    MicrobatchRange range;
    at::Tensor buffer;  // float32 [buffer_elements_]
  };

  at::Tensor TakeBuffer();
  absl::StatusOr<at::Tensor> Exchange(absl::Duration timeout);
  absl::Status SendPartials(const std::vector<PlannedPartial>& plan, ElementRange mine,
                            absl::Duration timeout);
  absl::Status GatherSum(const at::Tensor& chunk, const at::Tensor& sum, absl::Duration timeout);

  const int64_t elements_;
  const int64_t buffer_elements_;  // gradient, loss, padding to a whole cache line
  const c10::Device device_;
  ProcessGroup& group_;

  int64_t microbatches_ = 0;
  MicrobatchRange run_;
  int64_t added_ = 0;
  at::Tensor current_;             // handed out by NextGradient
  std::vector<Partial> partials_;  // of this rank, from left to right
  std::vector<at::Tensor> free_;
  at::Tensor received_;  // [others' partials, chunk]
  at::Tensor sum_;       // [buffer_elements_], where the gathered sum lies
};

}  // namespace mindforge
