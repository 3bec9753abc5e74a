// Microbatch i of step s as tensors, straight from the token cache: a pure function of dataset,
// seed and place. It does not know ranks. The tensors are reused: one microbatch lives at a time.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/data/dataset.h"
#include "worker/data/order.h"
#include "worker/model/minimind.h"
#include "worker/train/row_split.h"

namespace mindforge {

// Not thread-safe. Borrows dataset, split and plan, which must outlive it.
class MicrobatchLoader {
 public:
  // `plan` orders the training rows of `split`. `on_load` is called with each microbatch.
  MicrobatchLoader(const Dataset& dataset, const RowSplit& split, const EpochPlan& plan,
                   int64_t microbatch_size, std::function<void()> on_load = nullptr);

  struct Loaded {
    Microbatch microbatch;  // valid until the next Load
    int64_t sequences = 0;
    int64_t tokens = 0;  // unmasked targets
  };
  // WORKER_UNFIT (failure.h): the token cache was found damaged; another start makes it anew.
  absl::StatusOr<Loaded> Load(const StepPosition& position, int64_t microbatch);

  // The held-out rows, always in the same order.
  int64_t held_out_microbatches() const;
  absl::StatusOr<Loaded> LoadHeldOut(int64_t microbatch);

 private:
  absl::StatusOr<Loaded> LoadRows(const std::vector<int64_t>& rows);

  const Dataset& dataset_;
  const RowSplit& split_;
  const EpochPlan& plan_;
  const int64_t microbatch_size_;
  const std::function<void()> on_load_;
  at::Tensor input_ids_;        // int64 [B, T]
  at::Tensor targets_;          // int64 [B, T]
  at::Tensor mask_;             // uint8 [B, T]
  at::Tensor document_starts_;  // int32 [B, T], undefined in pad mode
  std::vector<float> mask_values_;
};

}  // namespace mindforge
